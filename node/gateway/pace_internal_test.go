package gateway

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestRequestsBeyondTheBoundWaitForTheirTurnInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		for range maxBusy {
			if !p.enter(t.Context()) {
				t.Fatal("there was no room")
			}
		}
		turns := make(chan int, 3)
		ctx, give := context.WithCancel(t.Context())
		for i := range 3 {
			of := t.Context()
			if i == 1 {
				of = ctx
			}
			go func() {
				if p.enter(of) {
					turns <- i
				}
			}()
			synctest.Wait()
		}
		give() // the second one leaves the line
		synctest.Wait()
		p.back() // one more than there is room for
		p.leave()
		synctest.Wait()
		if len(turns) != 0 {
			t.Error("there was room for one too many")
		}
		for _, want := range []int{0, 2} {
			p.leave()
			synctest.Wait()
			if len(turns) != 1 {
				t.Fatalf("%d are let in where one has left", len(turns))
			}
			if got := <-turns; got != want {
				t.Errorf("it is the turn of %d, want %d", got, want)
			}
		}
		for range maxBusy {
			p.leave()
		}
		if p.busy != 0 || len(p.line) != 0 {
			t.Errorf("%d are busy and %d wait at the end", p.busy, len(p.line))
		}
	})
}
