package store

import (
	"testing"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/ledgertest"
)

// BenchmarkApply is `poq bench apply`, for profiles: 20000 settlements until all are durable.
func BenchmarkApply(b *testing.B) {
	payer := ledgertest.NewPayer(ledgertest.Key("payer"))
	g, keys := ledgertest.NewGenesis("bench", 4, payer)
	c := ledgertest.New(g, keys, 3)
	locks, receipts := make([]*ledger.LockCert, 20000), make([]*ledger.Receipt, 20000)
	for i := range receipts {
		locks[i], receipts[i] = c.Next(payer)
	}
	b.Logf("a receipt has %d bytes", len(receipts[0].Encode()))
	for _, withLock := range []bool{false, true} {
		name := "Settle"
		if withLock {
			name = "LockAndSettle"
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				s := openStore(b, b.TempDir(), g)
				b.StartTimer()
				for i, r := range receipts {
					if withLock {
						must(b, s.Lock(locks[i]))
					}
					must(b, s.Settle(r))
				}
				must(b, s.Flush())
				b.StopTimer()
				must(b, s.Close())
				b.StartTimer()
			}
			b.ReportMetric(float64(b.N*len(receipts))/b.Elapsed().Seconds(), "settlements/s")
		})
	}
}
