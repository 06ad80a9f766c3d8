package p2p

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-msgio"
	"github.com/multiformats/go-varint"
)

// errFrame marks bytes that are not a frame of the agreed size. No honest peer sends them.
var errFrame = errors.New("malformed frame")

// frameReader reads frames: an unsigned varint length, then that many bytes, at least one.
type frameReader struct {
	r   msgio.Reader
	max int
}

func newFrameReader(r io.Reader, maxSize int) frameReader {
	return frameReader{r: msgio.NewVarintReaderSize(bufio.NewReader(r), maxSize), max: maxSize}
}

// next returns the next frame, which belongs to the caller. Its length is checked before memory is taken for it.
// An error wraps errFrame if the peer is to blame, and is the stream's own otherwise.
func (f frameReader) next() ([]byte, error) {
	frame, err := f.r.ReadMsg()
	switch {
	case errors.Is(err, msgio.ErrMsgTooLarge):
		return nil, fmt.Errorf("%w: %w: limit is %d bytes", errFrame, ErrTooLarge, f.max)
	case errors.Is(err, varint.ErrOverflow), errors.Is(err, varint.ErrNotMinimal):
		return nil, fmt.Errorf("%w: length: %w", errFrame, err)
	case err != nil:
		return nil, err
	case len(frame) == 0:
		return nil, fmt.Errorf("%w: empty", errFrame)
	}
	return frame, nil
}

// appendFrame appends the frame with the given parts as its bytes.
func appendFrame(buf []byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	buf = binary.AppendUvarint(buf, uint64(n))
	for _, p := range parts {
		buf = append(buf, p...)
	}
	return buf
}
