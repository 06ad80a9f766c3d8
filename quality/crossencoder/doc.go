// Package crossencoder is the judge of package quality: a BERT cross-encoder that reads a prompt and an answer together, in pure Go.
//
//	prompt ─┐ neutralise, trim,     [CLS] prompt [SEP] answer [SEP]      BERT, 6 layers      1/(1+e^-logit)
//	answer ─┘ tokenise, cut whole ─► at most 512 tokens, the answer ───► 384 wide        ───► in basis points,
//	          words from the middle  at most 256 of them                 22.7 M parameters    rounded half up
//
// The network runs in hugot (on GoMLX and its Go backend): no C, no process beside it, no download. Its weights are embedded in the
// binary and are loaded from memory; a directory with model.onnx, tokenizer.json and config.json of the same format can stand in for
// them. model/CARD.md says what the judge was trained on, what it can tell and what it cannot.
//
// Under the race detector the network needs -gcflags=github.com/gomlx/compute/...=-d=checkptr=0, or checkptr stops the program at a
// pointer that GoMLX's matrix product moves past the end of a matrix without reading it. Without GOEXPERIMENT=simd it is five times slower.
//
// The preparation of the texts is part of the judge's identity, see prepare.go. The two segments are joined as token ids, not as
// text, so an answer cannot forge the end of its segment.
//
// Of this module the package imports crypto and quality alone.
package crossencoder
