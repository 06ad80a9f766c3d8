package smol

import (
	"os"
	"syscall"
	"unsafe"
)

// release gives back the memory of data that is mapped from the binary and was read for the last time: the system reads it from
// there again should it be needed. It saves 98 MB.
func release(data []byte) {
	page := os.Getpagesize()
	skip := (page - int(uintptr(unsafe.Pointer(unsafe.SliceData(data))))%page) % page //nolint:gosec // only the address is looked at
	if n := (len(data) - skip) / page * page; n > 0 {
		// The advice is only about the working set, so a refusal costs nothing but memory.
		_ = syscall.Madvise(data[skip:skip+n], syscall.MADV_DONTNEED)
	}
}
