// Package votelog is a validator's durable memory of what it signed: a log that is synced before a
// signature leaves the process (protocol §6, I5). After a restart the state of the signer is a fold
// over it.
//
// A log must never be copied back from a backup: a validator that forgets a vote can be made to
// contradict it.
//
// # Layout
//
// The log is one segment, a file of fixed size that is filled with zeros and synced before it is used;
// so an append neither moves the end of the file nor allocates, and a full disk shows when a segment is made,
// not when a vote is logged. Integers are big endian.
//
//	segment: header(512) | groups | zeros
//	header:  "poqvotes" | version(4) | chain id(32) | epoch(8) | validator(2) | number of the segment(8) |
//	         size(8) | end of what was carried over(8) | hash of the last group before(32) | number of the first group(8) |
//	         seq of the next bundle(8) | hash of the bundle header before(32) | settled tasks(8) | zeros |
//	         CRC-32C of the 508 bytes before(4)
//	group:   "grp1" | number(8) | length of its records(4) | hash(32) | CRC-32C of all this(4) | records,
//	         padded with zeros so that the group ends at a multiple of 512
//	record:  length of the payload(4) | type(1) | payload
//	types:   1 message  what a vote refers to: an order, a seal certificate, a value, a prepared certificate; or the mark for which the validator refuses to sign
//	         2 bundle   a signed bundle
//	         3 opening  a score commitment and the secret behind it
//
// What is synced at once is one group. Its hash is SHA-256 over the hash of the group before (of the
// first group: SHA-256 of the segment's header), its own number and length, and its records with their
// padding. So no record can be changed, left out, moved or put in from elsewhere unnoticed. A group begins
// at a multiple of 512 bytes, so that a write that a crash tears never touches a sector that was synced before.
//
// # Recovery
//
// The first place where no group continues the chain is the end. A crash can have torn one group, the
// last one, which was not synced, so nothing of it was sent: what is left of it is overwritten with zeros. If any
// later group stands behind the end, or what was carried over is not whole, a group that was synced is damaged
// and [Open] returns [ErrCorrupt]. Damage to the last group alone looks like a torn one: that votes are missing then
// shows by what peers saw of them, see [Outbox.Mark].
//
// # Rotation
//
// When a group does not fit any more, a new segment is made: the records of tasks that are not settled durably are
// carried over, then everything is synced, then the header is written and synced, and then the old segment
// is removed. A segment without a valid header is one whose making was cut short, and the one before still
// stands. So the log is as large as the open tasks want it to be.
package votelog
