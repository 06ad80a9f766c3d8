package store

import (
	"bytes"
	"testing"

	"github.com/poqmesh/poq/ledger"
)

func TestBucketsListWhatTheDigestStandsFor(t *testing.T) {
	c := newChain(t)
	s := openStore(t, t.TempDir(), c.genesis)
	want := map[ledger.TaskID]bool{}
	for range 700 { // several to a bucket
		_, r := c.next()
		must(t, s.Settle(r))
		want[r.Task()] = true
	}
	must(t, s.Flush())
	again, n := ledger.NewSums(c.domain), 0
	for bucket, d := range s.BucketDigests() {
		own := ledger.NewSums(c.domain)
		for after := (ledger.TaskID{}); ; {
			page, err := s.BucketTasks(bucket, after, 2)
			must(t, err)
			for _, e := range page {
				if bytes.Compare(e.Task[:], after[:]) <= 0 || ledger.BucketOf(e.Task) != bucket || !want[e.Task] {
					t.Fatalf("bucket %d lists %s after %s", bucket, e.Task.Short(), after.Short())
				}
				own.Add(e.Task, e.Outcome)
				again.Add(e.Task, e.Outcome)
				after, n = e.Task, n+1
			}
			if len(page) < 2 {
				break
			}
		}
		if own.Digest() != d {
			t.Errorf("bucket %d has the digest %v, its tasks make %v", bucket, d, own.Digest())
		}
	}
	if n != len(want) || again.Digest() != s.Digest() || s.Digest().Tasks != n {
		t.Errorf("%d tasks make %v, the ledger says %v", n, again.Digest(), s.Digest())
	}
}
