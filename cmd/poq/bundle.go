package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/poqmesh/poq/node/genesis"
	"github.com/poqmesh/poq/node/wholefile"
)

// bundle is a tar.gz of texts. What goes in is named one by one: nothing is copied from the directory but the genesis.
type bundle struct {
	tar  *tar.Writer
	time time.Time
}

// userInfo is what stands before the host in an address: a name and a password.
var userInfo = regexp.MustCompile(`//[^/\s"'@]*@`)

func redact(text []byte) []byte { return userInfo.ReplaceAll(text, []byte("//***@")) }

func (b *bundle) add(name string, text []byte) error {
	text = redact(text)
	err := b.tar.WriteHeader(&tar.Header{Name: "poq-doctor/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: b.time, Format: tar.FormatPAX})
	if err == nil {
		_, err = b.tar.Write(text)
	}
	return err
}

func (b *bundle) addJSON(name string, v any) error {
	var text bytes.Buffer
	if err := printJSON(&text, v); err != nil {
		return err
	}
	return b.add(name, text.Bytes())
}

// writeBundle writes what was found, and what explains it, to a file. The file appears when it is whole.
func (d *doctor) writeBundle(path string) error {
	err := wholefile.Replace(path, func(w io.Writer) error {
		zip := gzip.NewWriter(w)
		b := &bundle{tar.NewWriter(zip), time.Now()}
		return errors.Join(d.fill(b), b.tar.Close(), zip.Close())
	})
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	return nil
}

func (d *doctor) fill(b *bundle) error {
	errs := []error{b.addJSON("findings.json", d.findings), b.addJSON("machine.json", machine())}
	if d.settings != nil {
		errs = append(errs, b.addJSON("settings.json", d.settings))
	}
	if g, err := os.ReadFile(genesis.Path(d.dir)); err == nil { // else a finding says so
		errs = append(errs, b.add("genesis.json", g))
	}
	if d.client == nil {
		return errors.Join(errs...)
	}
	errs = append(errs, b.addJSON("process.json", d.client.Status), b.addJSON("status.json", statusList(d.views)))
	for _, v := range d.views {
		if v.err != nil {
			continue
		}
		if text, err := d.client.Metrics(d.c.Context(), v.name); err == nil { // a peer may have none
			errs = append(errs, b.add("metrics/"+v.Name+".txt", text))
		}
		if text, err := d.client.Log(d.c.Context(), v.name); err == nil {
			errs = append(errs, b.add("log/"+v.Name+".txt", text))
		}
	}
	return errors.Join(errs...)
}
