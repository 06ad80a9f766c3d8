// Package crypto holds everything that turns a statement into signed bytes:
// hashes, ed25519 keys, the domain tag in front of every signed string and the
// one rule by which signatures are verified, alone or in a batch.
//
// It imports no other package of this module.
package crypto
