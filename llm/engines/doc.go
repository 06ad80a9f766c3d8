// Package engines makes any of the engines from one line of text, for command lines and configuration.
//
//	SPEC                                                          engine
//	smol[,temperature=T][,seed=N][,top-p=P][,max-tokens=N][,threads=N]   llm/smol
//	extract                                                       llm/extract
//	openai=URL[,model=NAME][,key-env=VARIABLE][,max-tokens=N][,timeout=DURATION]     llm/openai
//
// Each takes [,concurrency=N][,queue=N] besides: how many prompts it has at a time, and how many wait. Several specs make an
// engine that asks them in turn; see llm/pool.
//
// It imports all of them: a program that needs one only, and not the 98 MB of weights, imports that one instead.
package engines
