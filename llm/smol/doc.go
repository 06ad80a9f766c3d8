// Package smol answers prompts with SmolLM2-135M-Instruct inside the process: pure Go, nothing installed, nothing downloaded.
//
// The weights (model/, 98 MB, Apache-2.0, by Hugging Face) are part of every binary that imports the package. They are prepared for
// the kernels by the first request, once per process, and from then on shared by all engines and requests; a request has a
// key-value cache of its own, of the size its prompt and answer need.
//
//	prompt ── tokenizer.go ── prompt.go: conversation, cut to the context
//	             │
//	             ▼ 16 tokens at a time                  model.go: GGUF → matrices
//	          forward.go: session ── 30 layers ── matrix.go: 4-bit weights × 15-bit activations
//	             │            ▲                          │
//	             ▼ logits     │ next token               ▼
//	          sample.go ──────┘                     kernels.go, and kernels_amd64.go with AVX2
//
// What it costs: 98 MB of the binary, 115 MB of memory for the weights, 46 KB for each token of prompt and answer while the request
// lasts, and half a second to get ready; getting ready takes 98 MB more for a moment, and for good on systems other than Linux,
// which drop it if they are short of memory. What it does in a second on one core of a 2.6 GHz server: 65 tokens
// written and 150 read with AVX2 (GOEXPERIMENT=simd, amd64), 14 and 17 without.
//
// Answers are those of a very small model. It knows capitals and can restate a passage, and it is often wrong.
//
// Greedy answers, the default, are the same to the token for any number of threads, with and without AVX2, and on every machine
// as far as its math library rounds exp and sin alike. Logits differ by less than 0.05 from those of the same weights computed in
// floats, which a test checks.
//
// The engine is made for one architecture and the types of this one file. Of this module it imports package llm only.
package smol
