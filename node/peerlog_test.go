package node

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLinesThatAPeerProvokesAreBounded(t *testing.T) {
	var out bytes.Buffer
	h := limitLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))).With("peer", "x").Handler()
	now := time.Unix(1_700_000_000, 0)
	say := func(level slog.Level, message string) {
		t.Helper()
		if err := h.Handle(context.Background(), slog.NewRecord(now, level, message, 0)); err != nil {
			t.Fatal(err)
		}
	}
	count := func(words string) int { return strings.Count(out.String(), words) }
	for range 1000 {
		say(slog.LevelWarn, "noise")
		say(slog.LevelDebug, "detail")
	}
	say(slog.LevelWarn, "another matter")
	if count("noise") != logBurst || count("detail") != 1000 || count("another matter") != 1 {
		t.Errorf("%d lines of noise, %d of detail, %d of another matter", count("noise"), count("detail"), count("another matter"))
	}
	now = now.Add(logPause)
	say(slog.LevelWarn, "noise")
	say(slog.LevelWarn, "noise")
	if count("noise") != logBurst+1 || count("lines_left_out=980") != 1 {
		t.Errorf("after a pause: %d lines of noise\n%s", count("noise"), out.String()[out.Len()-200:])
	}
	out.Reset()
	now = now.Add(1000 * time.Hour)
	for range 1000 {
		say(slog.LevelWarn, "noise")
	}
	if count("noise") != logBurst || count("lines_left_out=1 ") > 1 {
		t.Errorf("after a long pause: %d lines of noise", count("noise"))
	}
	if count("peer=x") != logBurst {
		t.Error("attributes were lost")
	}
}
