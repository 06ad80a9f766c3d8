package crossencoder

import (
	_ "embed" // for the judge of the binary
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/poqmesh/poq/crypto"
)

// The files of a judge.
const (
	modelFile     = "model.onnx"
	tokenizerFile = "tokenizer.json"
	configFile    = "config.json"
)

// The judge of the binary. Nobody writes to these.
var (
	//go:embed model/model.onnx
	builtinModel []byte
	//go:embed model/tokenizer.json
	builtinTokenizer []byte
	//go:embed model/config.json
	builtinConfig []byte
)

// files is the content of a judge's directory.
type files struct {
	directory        string // empty: the binary
	model, tokenizer []byte
	rawConfig        []byte
	config           config
}

// config is what is read of config.json: the shape of the network.
type config struct {
	Layers     int     `json:"num_hidden_layers"`
	Heads      int     `json:"num_attention_heads"`
	Hidden     int     `json:"hidden_size"`
	Inner      int     `json:"intermediate_size"`
	Words      int     `json:"vocab_size"`
	Positions  int     `json:"max_position_embeddings"`
	Epsilon    float64 `json:"layer_norm_eps"`
	Activation string  `json:"hidden_act"`
}

func parseConfig(content []byte) (c config, err error) {
	if err := json.Unmarshal(content, &c); err != nil {
		return c, err
	}
	switch {
	case c.Layers < 1 || c.Heads < 1 || c.Hidden < 1 || c.Hidden%c.Heads != 0:
		return c, fmt.Errorf("num_hidden_layers %d, num_attention_heads %d and hidden_size %d don't make a network", c.Layers, c.Heads, c.Hidden)
	case c.Positions < maxTokens:
		return c, fmt.Errorf("max_position_embeddings is %d, want at least %d", c.Positions, maxTokens)
	case c.Activation != "gelu":
		return c, fmt.Errorf("hidden_act is %q, want \"gelu\"", c.Activation)
	}
	return c, nil
}

// read gets the files from directory, or from the binary if that's empty.
func read(directory string) (*files, error) {
	f := &files{directory: directory, model: builtinModel, tokenizer: builtinTokenizer, rawConfig: builtinConfig}
	if directory != "" {
		for name, to := range map[string]*[]byte{modelFile: &f.model, tokenizerFile: &f.tokenizer, configFile: &f.rawConfig} {
			content, err := os.ReadFile(filepath.Join(directory, name))
			if err != nil {
				if path, ok := errors.AsType[*fs.PathError](err); ok {
					err = path.Err
				}
				return nil, f.broken(name, err)
			}
			*to = content
		}
	}
	var err error
	if f.config, err = parseConfig(f.rawConfig); err != nil {
		return nil, f.broken(configFile, err)
	}
	return f, nil
}

// broken says which file can't be used, and what to do.
func (f *files) broken(name string, err error) error {
	if f.directory == "" {
		return fmt.Errorf("the judge in this binary can't be loaded, build it again from a complete checkout: %s: %w", name, err)
	}
	return fmt.Errorf("judge model file %s can't be used (a judge's directory holds %s, %s and %s; leave it out to use the built-in judge): %w",
		filepath.Join(f.directory, name), modelFile, tokenizerFile, configFile, err)
}

// id hashes each part with its length before it.
func (f *files) id() crypto.Hash {
	var all []byte
	for _, part := range [][]byte{[]byte(rules), f.model, f.tokenizer, f.rawConfig} {
		sum := crypto.Sum(part)
		all = binary.BigEndian.AppendUint64(all, uint64(len(part)))
		all = append(all, sum[:]...)
	}
	return crypto.Sum(all)
}
