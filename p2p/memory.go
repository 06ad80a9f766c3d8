package p2p

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// memory remembers peers in a file, so that a host finds back when no bootstrap answers.
type memory struct {
	path, network string // no path: nothing is remembered
	log           *slog.Logger

	mu    sync.Mutex
	known map[peer.ID]remembered
	dirty bool
	saved time.Time
}

// remembered is a peer in the file.
type remembered struct {
	ID    peer.ID               `json:"id"`
	Addrs []multiaddr.Multiaddr `json:"addrs"`
	Seen  time.Time             `json:"seen"` // when it was last connected
}

// memoryFile is the file: JSON, so that a person can read and mend it.
type memoryFile struct {
	Network string            `json:"network"`
	Peers   []json.RawMessage `json:"peers"`
}

// openMemory reads the file, if there is one. A file that is damaged or of another network is replaced at the next save: it
// holds nothing that cannot be found again.
func openMemory(path, network string, log *slog.Logger) *memory {
	m := &memory{path: path, network: network, log: log, known: make(map[peer.ID]remembered)}
	if path == "" {
		return m
	}
	data, err := readAtMost(path, maxMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return m
	}
	var list []remembered
	if err == nil {
		list, err = decodeMemory(data, network)
	}
	if err != nil {
		log.Warn("remembered peers are of no use, going on without them", "file", path, "err", err)
	}
	for _, r := range list {
		m.known[r.ID] = r
	}
	return m
}

func readAtMost(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("longer than %d bytes", most)
	}
	return data, err
}

// decodeMemory reads a file's peers. A peer that makes no sense is left out.
func decodeMemory(data []byte, network string) (list []remembered, err error) {
	var file memoryFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	if file.Network != network {
		return nil, fmt.Errorf("they are of network %.140q", file.Network)
	}
	for _, raw := range file.Peers {
		var r remembered
		var text struct {
			ID    string    `json:"id"`
			Addrs []string  `json:"addrs"`
			Seen  time.Time `json:"seen"`
		}
		if json.Unmarshal(raw, &text) != nil {
			continue
		}
		if r.ID, err = peer.Decode(text.ID); err != nil {
			continue
		}
		for _, s := range text.Addrs[:min(len(text.Addrs), maxAddrs)] {
			if a, err := multiaddr.NewMultiaddr(s); err == nil {
				r.Addrs = append(r.Addrs, a)
			}
		}
		r.Seen = text.Seen
		if r.Addrs = dialable(r.Addrs); len(r.Addrs) > 0 && len(list) < memoryPeers {
			list = append(list, r)
		}
	}
	return list, nil
}

// peers returns those that are not forgotten.
func (m *memory) peers(now time.Time) (list []peer.AddrInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, r := range m.known {
		if now.Sub(r.Seen) < memoryTime {
			list = append(list, peer.AddrInfo{ID: id, Addrs: r.Addrs})
		}
	}
	return list
}

// saw notes that a peer is connected.
func (m *memory) saw(p peer.ID, addrs []sourced, now time.Time) {
	if m.path == "" {
		return
	}
	r := remembered{ID: p, Seen: now}
	for _, a := range addrs {
		r.Addrs = append(r.Addrs, a.addr)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, known := m.known[p]
	m.dirty = m.dirty || !known || now.Sub(old.Seen) > memoryFresh || !slices.EqualFunc(old.Addrs, r.Addrs, multiaddr.Multiaddr.Equal)
	m.known[p] = r
}

// saveDue saves what changed, unless that was done a moment ago; then it returns when to do it.
func (m *memory) saveDue(now time.Time) (next time.Time) {
	m.mu.Lock()
	dirty, due := m.dirty, m.saved.Add(memoryEvery)
	m.mu.Unlock()
	if !dirty {
		return time.Time{}
	}
	if due.After(now) {
		return due
	}
	m.save(now)
	return time.Time{}
}

// save writes the file: whole or not at all.
func (m *memory) save(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.path == "" || len(m.known) == 0 {
		return
	}
	list := make([]remembered, 0, len(m.known))
	for id, r := range m.known {
		if now.Sub(r.Seen) >= memoryTime {
			delete(m.known, id)
			continue
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b remembered) int { return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(a.ID, b.ID)) })
	for _, r := range list[min(len(list), memoryPeers):] {
		delete(m.known, r.ID)
	}
	m.saved, m.dirty = now, false
	if err := writeMemory(m.path, m.network, list[:min(len(list), memoryPeers)]); err != nil {
		m.log.Warn("connected peers are not remembered", "file", m.path, "err", err)
	}
}

func writeMemory(path, network string, list []remembered) error {
	data, err := json.MarshalIndent(struct {
		Network string       `json:"network"`
		Peers   []remembered `json:"peers"`
	}{network, list}, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
