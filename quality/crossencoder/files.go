package crossencoder

import (
	"embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/gomlx/compute/shapes"
	"github.com/knights-analytics/hugot/backends"

	"github.com/poqmesh/poq/crypto"
)

// The files of a judge.
const (
	modelFile     = "model.onnx"
	tokenizerFile = "tokenizer.json"
	configFile    = "config.json"
)

//go:embed model/model.onnx model/tokenizer.json model/config.json
var embedded embed.FS

// files is the content of a judge's directory.
type files struct {
	directory        string // empty: the binary
	model, tokenizer []byte
	rawConfig        []byte
	config           config
}

// config is what is read of config.json.
type config struct {
	MaxPositionEmbeddings int `json:"max_position_embeddings"`
}

func (c config) check() error {
	if c.MaxPositionEmbeddings < maxTokens {
		return fmt.Errorf("max_position_embeddings is %d, want at least %d", c.MaxPositionEmbeddings, maxTokens)
	}
	return nil
}

func read(directory string) (*files, error) {
	f := &files{directory: directory}
	var source fs.FS
	if directory == "" {
		sub, err := fs.Sub(embedded, "model")
		if err != nil {
			return nil, err
		}
		source = sub
	} else {
		source = os.DirFS(directory)
	}
	for _, file := range []struct {
		name string
		to   *[]byte
	}{{modelFile, &f.model}, {tokenizerFile, &f.tokenizer}, {configFile, &f.rawConfig}} {
		content, err := fs.ReadFile(source, file.name)
		if err != nil {
			var path *fs.PathError
			if errors.As(err, &path) {
				err = path.Err
			}
			return nil, f.broken(file.name, err)
		}
		*file.to = content
	}
	if err := json.Unmarshal(f.rawConfig, &f.config); err != nil {
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

// describe turns GoMLX's description of a network's inputs or outputs into hugot's and checks the names.
func describe(get func() ([]string, []shapes.Shape), want ...string) ([]backends.InputOutputInfo, error) {
	names, dims := get()
	if sorted, w := slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(want)); !slices.Equal(sorted, w) {
		return nil, fmt.Errorf("it has %v where a cross-encoder has %v", sorted, w)
	}
	infos := make([]backends.InputOutputInfo, len(names))
	for i, name := range names {
		infos[i].Name = name
		for _, d := range dims[i].Dimensions {
			infos[i].Dimensions = append(infos[i].Dimensions, int64(d))
		}
	}
	return infos, nil
}
