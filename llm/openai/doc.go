// Package openai answers prompts through any server that speaks OpenAI's chat protocol: Ollama, llama.cpp, vLLM, LM Studio, or a
// hosted service.
//
//	POST {base}/chat/completions   the answer, streamed as server-sent events
//	GET  {base}/models             the models, asked for only if none was named or the one named is not there
//
// What can go wrong on the way, and what the client does:
//
//	no connection within 5 s            error that names the address
//	status 429 or 503                   up to 4 attempts, waiting as Retry-After says but at most 30 s, else 0.5 s, 1 s, 2 s
//	nothing for Options.Timeout         error; 2 minutes unless set, since models that must be loaded first take long
//	answer over 256 KB, stream over 16 MB   error
//	stream cut before its end           error
//	context ends                        the connection is closed at once
//
// A key is read from the environment when the client is made, goes out in the Authorization header, and appears in no error.
// The package imports the standard library and package llm only.
package openai
