// Package quality grades answers.
//
//	prompt, answer ──► Pool ──────────────────► Judge ──────────────────► Score 0..10000
//	                   each pair once,          crossencoder.Judge:
//	                   a few at a time,         BERT, on the CPU,
//	                   remembered               shared by all peers
//	                                            of the process
//
// A [Judge] reads a prompt and an answer and says how good the answer is, without a reference answer. Its identity stands in every order,
// so all validators of a task ask the same one. Package quality/crossencoder has the real one. A [Pool] stands before it: validators
// of one process that judge the same pair share the work, and no more pairs are scored at a time than leave room for gossip.
//
// [Evaluate] measures a judge on labelled answers.
//
// The package knows nothing of networks and ledgers: of this module it imports crypto alone. A score takes a tenth of a second; never
// compute one where a peer's message is waiting to be forwarded.
package quality
