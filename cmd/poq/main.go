// Command poq runs and inspects a mesh of peers that answer, judge and settle.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	golog "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/gologshim"

	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node/control"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

// spareProcs are processors beyond the cores, as Go counts them, so that gossip gets its turn while
// the judge computes on all cores. Measured with the Echo benchmark of quality/crossencoder: a UDP
// echo beside two judges on two cores takes 9.2 ms at the median without them and 0.04 ms with two.
const spareProcs = 2

func main() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.NumCPU() + spareProcs)
	}
	ignoreFileSize()
	// The libp2p library has one log for the process; what it says there is of no use to a user.
	gologshim.SetDefaultHandler(slog.DiscardHandler)
	golog.SetupLogging(golog.Config{Level: golog.LevelFatal}) // and that of its DHT
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { // the second signal ends the process at once
		<-ctx.Done()
		stop()
	}()
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	if !errors.Is(err, errShown) {
		fmt.Fprintln(os.Stderr, "poq:", err)
	}
	os.Exit(exitCode(err))
}

// usageError is an error of what was typed.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errShown is wrapped when the output has said what is wrong.
var errShown = errors.New("failed")

func exitCode(err error) int {
	var usage usageError
	var remote *control.Error
	badID := errors.Is(err, store.ErrAmbiguous) || errors.Is(err, store.ErrBadID)
	if badID || errors.As(err, &usage) || errors.As(err, &remote) && remote.Code == control.CodeUsage {
		return exitUsage
	}
	return exitFailure
}
