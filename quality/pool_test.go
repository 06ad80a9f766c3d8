package quality_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/quality"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gatedJudge tells when it starts on an answer and waits until it may go on. Its score is the length of the answer.
type gatedJudge struct {
	gate           chan struct{}
	calls          atomic.Int32
	running, peak  atomic.Int32
	err            error
	mu             sync.Mutex
	answersStarted []string
}

func newGatedJudge() *gatedJudge { return &gatedJudge{gate: make(chan struct{})} }

func (*gatedJudge) ID() crypto.Hash { return crypto.Sum([]byte("gated")) }

func (j *gatedJudge) Score(ctx context.Context, _, answer string) (quality.Score, error) {
	j.calls.Add(1)
	now := j.running.Add(1)
	defer j.running.Add(-1)
	for peak := j.peak.Load(); now > peak && !j.peak.CompareAndSwap(peak, now); peak = j.peak.Load() {
	}
	j.mu.Lock()
	j.answersStarted = append(j.answersStarted, answer)
	j.mu.Unlock()
	select {
	case <-j.gate:
		return quality.Score(len(answer)), j.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func closePool(t *testing.T, p *quality.Pool) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestPoolComputesAPairOnceForAllWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judge := newGatedJudge()
		pool := quality.NewPool(judge, quality.PoolOptions{})
		defer closePool(t, pool)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if s, err := pool.Score(t.Context(), "prompt", "four"); s != 4 || err != nil {
					t.Error(s, err)
				}
			})
		}
		synctest.Wait()
		close(judge.gate)
		wg.Wait()
		if s, err := pool.Score(t.Context(), "prompt", "four"); s != 4 || err != nil {
			t.Error(s, err)
		}
		if n := judge.calls.Load(); n != 1 {
			t.Errorf("the judge was asked %d times", n)
		}
	})
}

func TestPoolScoresNoMorePairsAtATimeThanItHasWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judge := newGatedJudge()
		pool := quality.NewPool(judge, quality.PoolOptions{Workers: 3})
		defer closePool(t, pool)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if _, err := pool.Score(t.Context(), "prompt", fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if n := judge.running.Load(); n != 3 {
			t.Errorf("%d pairs at a time", n)
		}
		close(judge.gate)
		wg.Wait()
		if peak, calls := judge.peak.Load(), judge.calls.Load(); peak > 3 || calls != 10 {
			t.Errorf("at most %d pairs at a time, %d in all", peak, calls)
		}
	})
}

func TestPoolCallerWhoGivesUpCancelsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judge := newGatedJudge()
		pool := quality.NewPool(judge, quality.PoolOptions{})
		defer closePool(t, pool)
		impatient, giveUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := pool.Score(impatient, "prompt", "answer"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait() // the impatient one is first
		wg.Go(func() {
			if s, err := pool.Score(t.Context(), "prompt", "answer"); s != 6 || err != nil {
				t.Error(s, err)
			}
		})
		synctest.Wait()
		giveUp()
		synctest.Wait()
		close(judge.gate)
		wg.Wait()
		if n := judge.calls.Load(); n != 1 {
			t.Errorf("the judge was asked %d times", n)
		}
	})
}

func TestPoolSkipsPairsThatNobodyWaitsForAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judge := newGatedJudge()
		pool := quality.NewPool(judge, quality.PoolOptions{Workers: 1})
		defer closePool(t, pool)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := pool.Score(t.Context(), "prompt", "first"); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		ctx, giveUp := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := pool.Score(ctx, "prompt", "abandoned"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		giveUp()
		synctest.Wait()
		close(judge.gate)
		wg.Wait()
		if n := judge.calls.Load(); n != 1 {
			t.Errorf("the judge was asked %d times", n)
		}
		// Who asks again gets the score.
		if s, err := pool.Score(t.Context(), "prompt", "abandoned"); s != 9 || err != nil {
			t.Error(s, err)
		}
	})
}

func TestPoolForgetsErrorsAndTheLeastRecentlyUsed(t *testing.T) {
	judge := newGatedJudge()
	close(judge.gate)
	pool := quality.NewPool(judge, quality.PoolOptions{Entries: 2})
	defer closePool(t, pool)

	judge.err = errors.New("broken")
	if _, err := pool.Score(t.Context(), "p", "a"); !errors.Is(err, judge.err) {
		t.Error(err)
	}
	judge.err = nil
	for _, answer := range []string{"a", "bb", "a", "ccc", "a", "bb"} { // bb goes for ccc
		if s, err := pool.Score(t.Context(), "p", answer); int(s) != len(answer) || err != nil {
			t.Error(s, err)
		}
	}
	if n := judge.calls.Load(); n != 5 {
		t.Errorf("the judge was asked %d times", n)
	}
}

func TestPoolAnswersWithWhatWasPut(t *testing.T) {
	judge := newGatedJudge()
	pool := quality.NewPool(judge, quality.PoolOptions{})
	pool.Put("prompt", "answer", 1234)
	closePool(t, pool)
	if s, err := pool.Score(t.Context(), "prompt", "answer"); s != 1234 || err != nil {
		t.Error(s, err)
	}
	if pool.ID() != judge.ID() {
		t.Error("another identity than the judge's")
	}
	// The border between prompt and answer counts.
	if _, err := pool.Score(t.Context(), "prompta", "nswer"); !errors.Is(err, quality.ErrClosed) {
		t.Error(err)
	}
}

func TestPoolCloseEndsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judge := newGatedJudge()
		pool := quality.NewPool(judge, quality.PoolOptions{Workers: 1})
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if _, err := pool.Score(t.Context(), "prompt", fmt.Sprint(i)); !errors.Is(err, quality.ErrClosed) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		closePool(t, pool)
		closePool(t, pool)
		wg.Wait()
	})
}

func TestScoreReadsAsAShare(t *testing.T) {
	for score, want := range map[quality.Score]string{0: "0.0000", 7: "0.0007", 8731: "0.8731", quality.MaxScore: "1.0000"} {
		if got := score.String(); got != want {
			t.Errorf("%d: %s, want %s", uint16(score), got, want)
		}
	}
}
