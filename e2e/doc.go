// Package e2e runs the built binary as a user does. Its tests read like the README: start a network,
// ask it, look at its ledger, stop it, start it again.
package e2e
