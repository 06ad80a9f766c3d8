// Package store keeps a ledger in Badger.
//
// The state lives in memory and changes at once when a certificate is applied: the certificate is
// the finality. Behind it one goroutine, the applier, writes what changed in atomic groups, in the
// order in which it was applied. So what is on disk is always the ledger at some earlier moment, and
// what a crash takes can be applied again from the same certificates.
package store
