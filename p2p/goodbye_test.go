package p2p

import (
	"errors"
	"net"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/multiformats/go-multiaddr"
)

// TestHostThatClosesSaysSo: what the other side sees is an end that was announced, over each transport, and no time-out half
// a minute later.
func TestHostThatClosesSaysSo(t *testing.T) {
	for name, protocol := range map[string]int{"QUIC": multiaddr.P_QUIC_V1, "TCP": multiaddr.P_TCP} {
		t.Run(name, func(t *testing.T) {
			a, b := newHost(t, Config{}), newHost(t, Config{})
			var over []multiaddr.Multiaddr
			for _, addr := range b.Addrs() {
				if _, err := addr.ValueForProtocol(protocol); err == nil {
					over = append(over, addr)
				}
			}
			if err := a.Connect(deadline(t), over...); err != nil {
				t.Fatal(err)
			}
			opened := make(chan struct{})
			b.host.SetStreamHandler("/test", func(network.Stream) { close(opened) })
			s, err := a.host.NewStream(deadline(t), b.ID(), "/test")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			<-opened
			changed, stop := a.watch.add(b.ID())
			defer stop()
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			_, err = s.Read(make([]byte, 1))
			var late net.Error
			if err == nil || errors.As(err, &late) && late.Timeout() {
				t.Errorf("the stream ended with %v, want an end that the other side announced", err)
			}
			for ctx := deadline(t); a.Connected(b.ID()); {
				select {
				case <-changed:
				case <-ctx.Done():
					t.Fatal("the peer that closed is still connected")
				}
			}
		})
	}
}
