package netns

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// nat is how a router translates.
type nat bool

const (
	// cone keeps the port of a sender where it is free, whoever the packet is for, and lets in only what answers: holes
	// can be punched.
	cone nat = false
	// symmetric takes another port for every destination: nobody can be told where to answer.
	symmetric nat = true
)

func (n nat) String() string {
	if n == symmetric {
		return "symmetric"
	}
	return "cone"
}

// masquerade makes a router of a machine: what leaves through the interface is translated, and what comes in by it is
// let in only if it answers. As home routers do it drops the rest without a word.
func masquerade(m *machine, out string, n nat) error {
	return m.in(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "router", Family: nftables.TableFamilyIPv4})
		post := c.AddChain(&nftables.Chain{Name: "nat", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		c.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: append(
			named(expr.MetaKeyOIFNAME, out),
			&expr.Masq{Random: n == symmetric, FullyRandom: n == symmetric},
		)})
		for name, hook := range map[string]*nftables.ChainHook{"input": nftables.ChainHookInput, "forward": nftables.ChainHookForward} {
			chain := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
				&expr.Bitwise{
					SourceRegister: 1, DestRegister: 1, Len: 4, Xor: binaryutil.NativeEndian.PutUint32(0),
					Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
				},
				&expr.Cmp{Register: 1, Op: expr.CmpOpNeq, Data: binaryutil.NativeEndian.PutUint32(0)},
				&expr.Verdict{Kind: expr.VerdictAccept},
			}})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(named(expr.MetaKeyIIFNAME, out), &expr.Verdict{Kind: expr.VerdictDrop})})
		}
		return c.Flush()
	})
}

// cut loses all packets that a router has for its line or gets from it. It goes on knowing its neighbours, so that
// nobody is told that a host is unreachable.
func cut(m *machine, out string) error {
	return m.in(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "cut", Family: nftables.TableFamilyIPv4})
		in := c.AddChain(&nftables.Chain{Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
		c.AddRule(&nftables.Rule{Table: table, Chain: in, Exprs: append(named(expr.MetaKeyIIFNAME, out), &expr.Verdict{Kind: expr.VerdictDrop})})
		post := c.AddChain(&nftables.Chain{Name: "out", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: append(named(expr.MetaKeyOIFNAME, out), &expr.Verdict{Kind: expr.VerdictDrop})})
		return c.Flush()
	})
}

// mend ends a cut.
func mend(m *machine, _ string) error {
	return m.in(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.DelTable(&nftables.Table{Name: "cut", Family: nftables.TableFamilyIPv4})
		return c.Flush()
	})
}

// named matches packets by the name of an interface.
func named(key expr.MetaKey, name string) []expr.Any {
	data := make([]byte, 16)
	copy(data, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}
