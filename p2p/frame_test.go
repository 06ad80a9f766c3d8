package p2p

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
)

func FuzzFramesReadBackAsWritten(f *testing.F) {
	f.Add([]byte("a"), []byte("b"))
	f.Add(make([]byte, 127), make([]byte, 128))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) == 0 || len(b) == 0 {
			return
		}
		r := newFrameReader(bytes.NewReader(appendFrame(appendFrame(nil, a), b[:1], b[1:])), max(len(a), len(b)))
		for _, want := range [][]byte{a, b} {
			if got, err := r.next(); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %x, %v, want %x", got, err, want)
			}
		}
		if _, err := r.next(); !errors.Is(err, io.EOF) {
			t.Fatalf("at the end: %v", err)
		}
	})
}

func FuzzFrameReader(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0})
	f.Add([]byte{1, 'x', 2, 'y'})
	f.Add([]byte{0x80, 0x00})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 64
		var frames [][]byte
		rejected := fmt.Errorf("%w: as told", ErrReject)
		err := readFrames(bytes.NewReader(data), limit, func(frame []byte) error {
			if len(frame) == 0 || len(frame) > limit {
				t.Fatalf("frame of %d bytes", len(frame))
			}
			frames = append(frames, frame)
			if frame[0] == 'r' {
				return rejected
			}
			return nil
		})
		if err != nil && !errors.Is(err, errFrame) && !errors.Is(err, rejected) {
			t.Fatalf("unexpected error %v", err)
		}
		var again []byte
		for _, frame := range frames {
			again = appendFrame(again, frame)
		}
		if !bytes.HasPrefix(data, again) {
			t.Fatalf("frames are not what the bytes begin with: %x", again)
		}
	})
}

func TestUnderstoodStatusesAreTheirOwnError(t *testing.T) {
	for status := range 256 {
		want := min(byte(status), statusFailed) // what a later version may say reads as a failure
		if got := statusOf(errorOf(byte(status))); got != want {
			t.Errorf("status %d reads as %d", status, got)
		}
	}
}
