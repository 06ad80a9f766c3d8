//go:build !race

// The race detector needs a flag for the network, see package crossencoder.

package quality_test

import (
	"context"
	"fmt"
	"log"

	"github.com/poqmesh/poq/quality"
	"github.com/poqmesh/poq/quality/crossencoder"
)

// One judge and one pool serve all peers of a process.
func Example() {
	ctx := context.Background()
	judge, err := crossencoder.New(ctx, "") // the built-in one
	if err != nil {
		log.Fatal(err)
	}
	defer judge.Close()
	pool := quality.NewPool(judge, quality.PoolOptions{})
	defer pool.Close()

	right, err := pool.Score(ctx, "When did the First World War end?", "It ended on 11 November 1918.")
	if err != nil {
		log.Fatal(err)
	}
	lazy, err := pool.Score(ctx, "When did the First World War end?", "That is a very good question!")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(right > lazy)
	// Output: true
}
