// Package smol answers prompts with SmolLM2-135M-Instruct, inside the process, in pure Go and with nothing installed.
package smol
