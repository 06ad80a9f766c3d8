package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// notify tells the manager of services what state the peer is in, if one asked for that: sd_notify(3) of systemd.
func notify(ctx context.Context, state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if strings.HasPrefix(path, "@") { // a name in Linux's abstract space
		path = "\x00" + path[1:]
	}
	c, err := new(net.Dialer).DialContext(ctx, "unixgram", path)
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	_, err = c.Write([]byte(state))
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}
