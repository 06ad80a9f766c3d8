package node

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// A line that a peer can provoke is written logBurst times in a row and then once in logPause, so that nobody fills the
// disk of another.
const (
	logBurst = 20
	logPause = 30 * time.Second
)

// limitedLog passes lines of level info and above on to another handler, within a bound for each message.
type limitedLog struct {
	slog.Handler
	lines *logLines
}

type logLines struct {
	mu   sync.Mutex
	said map[string]*logLine // by message; messages are constants of this program
}

type logLine struct {
	spare  int // how many may come at once
	since  time.Time
	unsaid int
}

func limitLog(l *slog.Logger) *slog.Logger {
	return slog.New(limitedLog{l.Handler(), &logLines{said: map[string]*logLine{}}})
}

// WithAttrs implements slog.Handler.
func (h limitedLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return limitedLog{h.Handler.WithAttrs(attrs), h.lines}
}

// WithGroup implements slog.Handler.
func (h limitedLog) WithGroup(name string) slog.Handler {
	return limitedLog{h.Handler.WithGroup(name), h.lines}
}

// Handle implements slog.Handler.
func (h limitedLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		unsaid, ok := h.lines.take(r.Message, r.Time)
		if !ok {
			return nil
		}
		if unsaid > 0 {
			r = r.Clone()
			r.AddAttrs(slog.Int("lines_left_out", unsaid))
		}
	}
	return h.Handler.Handle(ctx, r)
}

// take says whether a message may be written now, and how many were not since the last one.
func (l *logLines) take(message string, now time.Time) (unsaid int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.said[message]
	if line == nil {
		line = &logLine{spare: logBurst, since: now}
		l.said[message] = line
	}
	if earned := int(now.Sub(line.since) / logPause); earned > 0 {
		line.spare = min(line.spare+earned, logBurst)
		line.since = line.since.Add(time.Duration(earned) * logPause)
	}
	if line.spare == 0 {
		line.unsaid++
		return 0, false
	}
	line.spare--
	unsaid, line.unsaid = line.unsaid, 0
	return unsaid, true
}
