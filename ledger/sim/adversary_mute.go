package sim

import "github.com/poqmesh/poq/ledger"

// mute listens and never says a word.
type mute struct{ faithful }

func (mute) sends(*node, int, ledger.Message) []ledger.Message { return nil }
func (mute) serves(_, _ *node, _ ledger.TaskID) bool           { return false }
