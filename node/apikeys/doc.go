// Package apikeys keeps the keys with which programs may use a peer's API, and counts what each spends.
//
// A key is 256 random bits, so its SHA-256 is as good as any slow hash: nobody finds it by trying. Only the hash is on disk, in
// api-keys.json of the peer's directory, mode 0600. It is edited by [New], [Change] and [Revoke], also while a [Guard] of another
// process reads it.
//
// What was spent stands in api-usage.log beside it: a line of JSON for each order and each settlement. Lines are appended without a
// sync, so a process that is killed loses none; the disk has them within a second, which is what a power failure can take.
package apikeys
