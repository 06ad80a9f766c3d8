package node

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

func task(b byte) ledger.TaskID { return ledger.TaskID(bytes.Repeat([]byte{b}, crypto.HashSize)) }

// syncSamples has one of each message of the protocol.
func syncSamples() map[string][]byte {
	return map[string][]byte{
		"ask digest":   ask{kind: askDigest}.encode(),
		"ask buckets":  ask{kind: askBuckets}.encode(),
		"ask tasks":    ask{kind: askTasks, bucket: 254, after: task(254)}.encode(),
		"ask receipts": ask{kind: askReceipts, tasks: []ledger.TaskID{task(1), task(2)}}.encode(),
		"ask open":     ask{kind: askOpen, after: task(3)}.encode(),
		"ask said":     ask{kind: askSaid, tasks: []ledger.TaskID{task(4), task(5)}}.encode(),
		"ask locks":    ask{kind: askLocks, tasks: []ledger.TaskID{task(4)}}.encode(),
		"digest":       encodeDigests(ledger.Digest{Sum: task(5), Tasks: 0x0102030405}),
		"tasks":        encodeBucketTasks([]store.BucketTask{{Task: task(6), Outcome: task(7)}, {Task: task(8), Outcome: task(9)}}),
		"open":         appendTasks(nil, []ledger.TaskID{task(10), task(11)}),
		"certificates": encodeParts([][]byte{[]byte("one"), nil, []byte("three")}),
	}
}

// decodeSync decodes a message and encodes it again.
func decodeSync(name string, data []byte) ([]byte, error) {
	switch name {
	case "digest":
		d, err := decodeDigests(data, 1)
		return encodeDigests(d...), err
	case "tasks":
		t, err := decodeBucketTasks(data)
		return encodeBucketTasks(t), err
	case "open":
		t, err := decodeTasks(data)
		return appendTasks(nil, t), err
	case "certificates":
		p, err := decodeParts(data, syncPage)
		return encodeParts(p), err
	}
	a, err := decodeAsk(data)
	return a.encode(), err
}

func TestSyncMessagesStayAsTheyAre(t *testing.T) {
	got := map[string]string{}
	for name, data := range syncSamples() {
		got[name] = hex.EncodeToString(data)
		if again, err := decodeSync(name, data); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s does not survive: %x, %v", name, again, err)
		}
		for n := range data {
			if _, err := decodeSync(name, data[:n]); err == nil {
				t.Errorf("%s cut to %d of %d bytes was taken", name, n, len(data))
			}
		}
		if _, err := decodeSync(name, append(bytes.Clone(data), 0)); err == nil {
			t.Errorf("%s with a byte more was taken", name)
		}
	}
	path := filepath.Join("testdata", "sync.json")
	if *update {
		data, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, path, append(data, '\n'), 0o644)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]string
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("messages changed:\n%v\nthey were\n%v", got, want)
	}
}

func TestSyncMessagesBeyondTheirBoundsAreRefused(t *testing.T) {
	many := make([]ledger.TaskID, syncPage+1)
	for name, bad := range map[string]func() error{
		"no request":     func() error { _, err := decodeAsk(nil); return err },
		"unknown kind":   func() error { _, err := decodeAsk([]byte{99}); return err },
		"kind zero":      func() error { _, err := decodeAsk([]byte{0}); return err },
		"no tasks":       func() error { _, err := decodeAsk(ask{kind: askReceipts}.encode()); return err },
		"too many tasks": func() error { _, err := decodeAsk(ask{kind: askLocks, tasks: many}.encode()); return err },
		"too much said":  func() error { _, err := decodeSaid(encodeParts(make([][]byte, maxSaid+1))); return err },
		"nothing said":   func() error { _, err := decodeSaid(encodeParts([][]byte{nil})); return err },
		"too many listed": func() error {
			_, err := decodeBucketTasks(encodeBucketTasks(make([]store.BucketTask, syncPage+1)))
			return err
		},
		"too many open":   func() error { _, err := decodeTasks(appendTasks(nil, many)); return err },
		"more than asked": func() error { _, err := decodeParts(encodeParts([][]byte{nil, nil}), 1); return err },
		"long certificate": func() error {
			_, err := decodeParts(encodeParts([][]byte{make([]byte, ledger.MaxMessage+1)}), 1)
			return err
		},
		"count without end": func() error { _, err := decodeParts([]byte{255, 255}, math.MaxUint16); return err },
		"negative count": func() error {
			_, err := decodeDigests(encodeDigests(ledger.Digest{Tasks: -1}), 1)
			return err
		},
	} {
		if bad() == nil {
			t.Errorf("%s was taken", name)
		}
	}
	whole := ask{kind: askReceipts, tasks: many[:syncPage]}
	if n := len(whole.encode()); n != maxAsk {
		t.Errorf("the longest request has %d bytes, the bound is %d", n, maxAsk)
	}
}

func FuzzSyncMessages(f *testing.F) {
	for _, data := range syncSamples() {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, name := range []string{"ask", "digest", "tasks", "open", "certificates"} {
			if again, err := decodeSync(name, data); err == nil && !bytes.Equal(again, data) {
				t.Errorf("%s: %x reads as %x", name, data, again)
			}
		}
		_, _ = decodeDigests(data, ledger.Buckets)
		if said, err := decodeSaid(data); err == nil && !bytes.Equal(encodeSaid(said), data) {
			t.Errorf("%x reads as %v", data, said)
		}
	})
}
