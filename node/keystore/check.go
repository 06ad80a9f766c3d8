package keystore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// Problem is something that is wrong with a peer's directory.
type Problem struct {
	Path string `json:"path"`
	What string `json:"what"`
	Mend string `json:"mend"` // what to do: usually a command
}

// Check looks for what is wrong with the keys in a directory: modes that let others in, keys that are missing or
// damaged, files that a crash left. It needs no passphrase and changes nothing. That a consensus key is missing is no
// problem: only a validator has one.
func Check(dir string) (problems []Problem) {
	note := func(path string, what error, mend string) {
		problems = append(problems, Problem{path, what.Error(), mend})
	}
	if err := checkDir(dir); errors.Is(err, ErrLoose) {
		note(dir, err, "chmod 700 "+shellWord(dir))
		return problems
	} else if err != nil {
		note(dir, err, "poq init --dir "+shellWord(dir))
		return problems
	}
	for _, kind := range Kinds() {
		path := kind.Path(dir)
		switch _, err := describe(dir, kind); {
		case err == nil, kind == Consensus && errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, fs.ErrNotExist):
			note(path, err, "put it back from its backup; if there was none, poq init --dir "+shellWord(dir))
		case errors.Is(err, ErrLoose):
			note(path, err, "chmod 600 "+shellWord(path))
		default:
			note(path, err, "put the key back from its backup, or move the file away and run poq init --dir "+shellWord(dir))
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		note(dir, err, "look at the directory's owner and disk")
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		if !temporary.MatchString(f.Name()) {
			continue
		}
		// What holds a whole key may be a copy that somebody made.
		if data, err := os.ReadFile(path); err == nil && !holdsKey(data) {
			note(path, errors.New("a write of a key was cut off"), "rm "+shellWord(path))
		}
	}
	return problems
}

// temporary are the names of files that package wholefile makes of keys on the way.
var temporary = regexp.MustCompile(`^(peer|account|consensus)\.key\.[0-9]+$`)

func holdsKey(data []byte) bool {
	_, _, err := Inspect(data)
	return err == nil
}
