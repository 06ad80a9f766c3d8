// Package votelog is a validator's durable memory of what it signed: an append-only file that is
// synced before a signature leaves the process (protocol §6, I5). After a restart the state of the
// signer is a fold over it.
//
// A log must never be copied back from a backup: a validator that forgets a vote can be made to
// contradict it.
//
//	record: length(4) | type(1) | CRC-32C of the payload(4) | CRC-32C of these nine bytes(4) | payload
//	types:  message  what a vote refers to: an order, a seal certificate
//	        bundle   a signed bundle
//	        opening  a score commitment and the secret behind it
package votelog
