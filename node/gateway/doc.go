// Package gateway serves a node's network to programs that speak the API of OpenAI: chat completions, completions and models,
// over HTTP. Each request is one task, which the node's account pays for. docs/gateway.md describes what clients see.
package gateway
