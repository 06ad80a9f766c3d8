// Package llm names what answers prompts.
//
// A worker of the network holds one [Engine]. Several exist, each in a package of its own, so that a program carries only what it uses:
//
//	package       what it is                                  what it brings along
//	llm/smol      SmolLM2-135M-Instruct inside the process    98 MB of weights in the binary
//	llm/extract   picks sentences of the passage asked about  nothing
//	llm/openai    client of any OpenAI-compatible server      net/http
//	llm/engines   makes an engine from a spec such as         all of the above
//	              "smol,temperature=0.9"
//
// This package imports none of them, and nothing else of this module.
package llm
