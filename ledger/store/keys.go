package store

import (
	"encoding/binary"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// The layout of the keys, all in one place. Integers are big endian.
//
//	m schema                    schema version, 4 bytes
//	m genesis                   genesis, JSON
//	m counted                   number of settled tasks, in the order of s, that the sums count (8)
//	a account(32)            -> balance(8, two's complement) nonce(8) last order(32)
//	n payer(32) nonce(8)     -> task(32) that was locked there
//	o task(32)               -> LockCert of an open task, whose fee is in escrow
//	r task(32)               -> Receipt of a settled task
//	t task(32)               -> outcome hash(32) seq(8) of a settled task
//	s seq(8)                 -> task(32) settled as seq-th here, unix time in ms(8)
//	d bucket(1)              -> tasks(8) and LtHash(2048) of a bucket of settled tasks
//	h validator(2)           -> highest BundleHeader of a validator in a certificate, with signature
//	e hash(32)               -> evidence that somebody broke the rules
//	b hash(32)               -> prompt or answer; expires
//	p nonce(8)               -> own order that may not be settled yet: OrderMessage
//	w task(32)               -> own answer that was committed to: AnswerMessage; expires
const (
	prefixMeta     = 'm'
	prefixAccount  = 'a'
	prefixNonce    = 'n'
	prefixOpen     = 'o'
	prefixReceipt  = 'r'
	prefixTask     = 't'
	prefixSeq      = 's'
	prefixSums     = 'd'
	prefixHeader   = 'h'
	prefixEvidence = 'e'
	prefixBlob     = 'b'
	prefixOwn      = 'p'
	prefixAnswer   = 'w'
)

// schema is the version of the layout. A store of a newer one is refused, one of an older one is
// migrated when it is opened:
//
//	1	had no sums, headers and evidence
const schema = 2

var (
	keySchema  = []byte{prefixMeta, 's'}
	keyGenesis = []byte{prefixMeta, 'g'}
	keyCounted = []byte{prefixMeta, 'd'}
)

func key(prefix byte, parts ...[]byte) []byte {
	k := append(make([]byte, 0, 80), prefix) // most keys with what Badger adds
	for _, p := range parts {
		k = append(k, p...)
	}
	return k
}

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func accountKey(id ledger.AccountID) []byte { return key(prefixAccount, id[:]) }
func nonceKey(payer ledger.AccountID, n uint64) []byte {
	return key(prefixNonce, payer[:], u64(n))
}
func openKey(t ledger.TaskID) []byte    { return key(prefixOpen, t[:]) }
func receiptKey(t ledger.TaskID) []byte { return key(prefixReceipt, t[:]) }
func taskKey(t ledger.TaskID) []byte    { return key(prefixTask, t[:]) }
func seqKey(seq uint64) []byte          { return key(prefixSeq, u64(seq)) }
func sumsKey(bucket int) []byte         { return []byte{prefixSums, byte(bucket)} }
func headerKey(validator int) []byte {
	return binary.BigEndian.AppendUint16([]byte{prefixHeader}, uint16(validator))
}
func evidenceKey(id crypto.Hash) []byte { return key(prefixEvidence, id[:]) }
func blobKey(h crypto.Hash) []byte      { return key(prefixBlob, h[:]) }
func answerKey(t ledger.TaskID) []byte  { return key(prefixAnswer, t[:]) }
func ownKey(nonce uint64) []byte        { return key(prefixOwn, u64(nonce)) }

func encodeAccount(a ledger.Account) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 48), uint64(a.Balance))
	return append(binary.BigEndian.AppendUint64(b, a.Nonce), a.Last[:]...)
}

func decodeAccount(b []byte) (a ledger.Account, err error) {
	r := crypto.NewReader(b)
	a = ledger.Account{Balance: int64(r.Uint64()), Nonce: r.Uint64(), Last: r.Hash()}
	return a, r.End()
}
