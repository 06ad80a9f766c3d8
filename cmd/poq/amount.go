package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/poqmesh/poq/ledger"
)

// credits is a flag that takes an amount in credits, with up to six decimals, and holds µ-credits.
type credits ledger.Amount

func (c *credits) String() string {
	if *c == 0 {
		return "" // not given: the help shows no default
	}
	return formatAmount(int64(*c))
}
func (c *credits) Type() string { return "credits" }
func (c *credits) Set(s string) error {
	whole, fraction, _ := strings.Cut(s, ".")
	if len(fraction) > 6 {
		return fmt.Errorf("%q has more than six decimals", s)
	}
	n, err := strconv.ParseUint(whole+fraction+strings.Repeat("0", 6-len(fraction)), 10, 64)
	if err != nil || whole == "" || n == 0 || n > math.MaxInt64 {
		return fmt.Errorf("%q is no amount above zero, such as 1 or 0.25", s)
	}
	*c = credits(n)
	return nil
}

func formatAmount(a int64) string { return ledger.FormatAmount(a) }

func formatFee(a ledger.Amount) string { return formatAmount(int64(a)) }

// formatScore writes basis points as a share of one.
func formatScore(s ledger.Score) string {
	return fmt.Sprintf("%d.%04d", s/ledger.MaxScore, s%ledger.MaxScore)
}
