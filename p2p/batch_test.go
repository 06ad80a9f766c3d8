package p2p

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// slowStream takes its time for each write, and fails at one of them.
type slowStream struct {
	network.Stream
	takes     time.Duration
	fail      int
	writes    [][]byte
	deadlines []time.Time
	ended     string
}

var errSlow = errors.New("stream broke")

func (s *slowStream) Write(p []byte) (int, error) {
	time.Sleep(s.takes) //nolint:forbidigo // of the test's own clock
	if s.writes = append(s.writes, bytes.Clone(p)); len(s.writes) == s.fail {
		return 0, errSlow
	}
	return len(p), nil
}
func (s *slowStream) SetWriteDeadline(t time.Time) error {
	s.deadlines = append(s.deadlines, t)
	return nil
}
func (s *slowStream) Close() error { s.ended += "closed"; return nil }
func (s *slowStream) Reset() error { s.ended += "reset"; return nil }

func TestWritesThatWaitForAnEarlierOneGoOutTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowStream{takes: time.Second}
		b := newBatchStream(slow)
		var sent []byte
		write := func(p []byte) {
			sent = append(sent, p...)
			if n, err := b.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		write([]byte("first"))
		synctest.Wait()
		for i := range byte(100) {
			write(bytes.Repeat([]byte{i}, 20))
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		b.mu.Lock()
		if slow.ended != "" {
			t.Error("closed before all was written")
		}
		b.mu.Unlock()
		time.Sleep(time.Minute) //nolint:forbidigo // of the test's own clock
		synctest.Wait()
		if len(slow.writes) != 2 || !bytes.Equal(bytes.Join(slow.writes, nil), sent) {
			t.Errorf("%d writes, want 2, and all bytes in their order", len(slow.writes))
		}
		if slow.ended != "closed" {
			t.Errorf("ended: %q, want closed", slow.ended)
		}
	})
}

func TestNoMoreThanABatchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowStream{takes: time.Second}
		b := newBatchStream(slow)
		sent := 0
		for _, size := range []int{1, gossipBatch / 2, gossipBatch / 2, 1, maxRPC, 1} {
			if _, err := b.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			sent += size
			synctest.Wait()
		}
		time.Sleep(time.Minute) //nolint:forbidigo // of the test's own clock
		synctest.Wait()
		for i, want := range []int{1, gossipBatch, 1, maxRPC, 1} {
			if i >= len(slow.writes) || len(slow.writes[i]) != want {
				t.Fatalf("write %d of %d is not of %d bytes", i, len(slow.writes), want)
			}
			sent -= want
		}
		if sent != 0 {
			t.Errorf("%d bytes were not written", sent)
		}
	})
}

func TestStreamIsResetWhenAWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowStream{takes: time.Second, fail: 2}
		b := newBatchStream(slow)
		var err error
		for i := 0; err == nil && i < 10; i++ { // more and more of them wait for room
			_, err = b.Write(make([]byte, gossipBatch))
		}
		if !errors.Is(err, errSlow) || slow.ended != "reset" {
			t.Errorf("got %v, ended: %q; want the error of the write, and a reset", err, slow.ended)
		}
		if _, err := b.Write([]byte("more")); !errors.Is(err, errSlow) || len(slow.writes) != slow.fail {
			t.Errorf("got %v and %d writes, want no more of them", err, len(slow.writes))
		}
	})
}

func TestEveryWriteHasHalfTheTimeOfADeadlineAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowStream{}
		b := newBatchStream(slow)
		begin := time.Now()
		for range 91 {
			if _, err := b.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if left := time.Until(slow.deadlines[len(slow.deadlines)-1]); left < gossipWrite/2 || left > gossipWrite {
				t.Fatalf("%v left after %v", left, time.Since(begin))
			}
			time.Sleep(time.Second) //nolint:forbidigo // of the test's own clock
		}
		if n := len(slow.deadlines); n > 6 {
			t.Errorf("%d deadlines in 90 seconds", n)
		}
	})
}
