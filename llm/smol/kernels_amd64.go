//go:build goexperiment.simd

package smol

import "simd/archsimd"

// fastest returns the kernels for this processor.
func fastest() kernels {
	if archsimd.X86.AVX2() {
		return kernels{name: "avx2", dotQ4: dotQ4AVX2, dotQ4Pair: dotQ4PairAVX2, dotQ8: dotQ8AVX2, dot: dotAVX2, axpy: axpyAVX2}
	}
	return plain
}

// Two rules keep these loops fast, both measured. No scalar float arithmetic between vector instructions: Go emits it as legacy
// SSE, and with dirty upper halves each switch costs about a hundred cycles; ClearAVXUpperBits ends every kernel for that reason.
// And shifts take their count from a vector, because the ones by a constant load it with a legacy instruction inside the loop.
var (
	nibbles  = [8]uint32{0xF000F, 0xF000F, 0xF000F, 0xF000F, 0xF000F, 0xF000F, 0xF000F, 0xF000F}
	shiftBy4 = [8]uint32{4, 4, 4, 4, 4, 4, 4, 4}
)

func dotQ4AVX2(y *[8]float32, w q4Group, x actRow) {
	mask, four := archsimd.LoadUint32x8(&nibbles), archsimd.LoadUint32x8(&shiftBy4)
	var acc, offset archsimd.Float32x8
	for b := range len(x.scale) / lanes {
		words, acts := (*[q4Words]uint32)(w.q[b*q4Words:]), (*[actWords]uint32)(x.q[b*actWords:])
		var s, t archsimd.Int32x8
		for j := range 4 {
			v, a := archsimd.LoadUint32x8((*[8]uint32)(words[j*lanes:])), (*[4 * lanes]uint32)(acts[j*4*lanes:])
			s = s.Add(v.And(mask).AsInt16x16().DotProductPairs(pairs(a[0:])))
			v = v.ShiftRight(four)
			t = t.Add(v.And(mask).AsInt16x16().DotProductPairs(pairs(a[8:])))
			v = v.ShiftRight(four)
			s = s.Add(v.And(mask).AsInt16x16().DotProductPairs(pairs(a[16:])))
			v = v.ShiftRight(four)
			t = t.Add(v.And(mask).AsInt16x16().DotProductPairs(pairs(a[24:])))
		}
		acc = acc.Add(s.Add(t).ConvertToFloat32().Mul(floats(w.scale[b*lanes:]).Mul(floats(x.scale[b*lanes:]))))
		offset = offset.Add(floats(w.low[b*lanes:]).Mul(floats(x.sum[b*lanes:])))
	}
	acc.Add(offset).Store(y)
	archsimd.ClearAVXUpperBits()
}

func dotQ4PairAVX2(y0, y1 *[8]float32, w q4Group, x0, x1 actRow) {
	mask, four := archsimd.LoadUint32x8(&nibbles), archsimd.LoadUint32x8(&shiftBy4)
	var acc0, acc1, offset0, offset1 archsimd.Float32x8
	for b := range len(x0.scale) / lanes {
		words := (*[q4Words]uint32)(w.q[b*q4Words:])
		acts0, acts1 := (*[actWords]uint32)(x0.q[b*actWords:]), (*[actWords]uint32)(x1.q[b*actWords:])
		var s0, s1 archsimd.Int32x8
		for j := range 4 {
			v := archsimd.LoadUint32x8((*[8]uint32)(words[j*lanes:]))
			a0, a1 := (*[4 * lanes]uint32)(acts0[j*4*lanes:]), (*[4 * lanes]uint32)(acts1[j*4*lanes:])
			q := v.And(mask).AsInt16x16()
			s0, s1 = s0.Add(q.DotProductPairs(pairs(a0[0:]))), s1.Add(q.DotProductPairs(pairs(a1[0:])))
			v = v.ShiftRight(four)
			q = v.And(mask).AsInt16x16()
			s0, s1 = s0.Add(q.DotProductPairs(pairs(a0[8:]))), s1.Add(q.DotProductPairs(pairs(a1[8:])))
			v = v.ShiftRight(four)
			q = v.And(mask).AsInt16x16()
			s0, s1 = s0.Add(q.DotProductPairs(pairs(a0[16:]))), s1.Add(q.DotProductPairs(pairs(a1[16:])))
			v = v.ShiftRight(four)
			q = v.And(mask).AsInt16x16()
			s0, s1 = s0.Add(q.DotProductPairs(pairs(a0[24:]))), s1.Add(q.DotProductPairs(pairs(a1[24:])))
		}
		scale, low := floats(w.scale[b*lanes:]), floats(w.low[b*lanes:])
		acc0 = acc0.Add(s0.ConvertToFloat32().Mul(scale.Mul(floats(x0.scale[b*lanes:]))))
		acc1 = acc1.Add(s1.ConvertToFloat32().Mul(scale.Mul(floats(x1.scale[b*lanes:]))))
		offset0 = offset0.Add(low.Mul(floats(x0.sum[b*lanes:])))
		offset1 = offset1.Add(low.Mul(floats(x1.sum[b*lanes:])))
	}
	acc0.Add(offset0).Store(y0)
	acc1.Add(offset1).Store(y1)
	archsimd.ClearAVXUpperBits()
}

func pairs(x []uint32) archsimd.Int16x16 { return archsimd.LoadUint32x8((*[8]uint32)(x)).AsInt16x16() }

func floats(x []float32) archsimd.Float32x8 { return archsimd.LoadFloat32x8((*[8]float32)(x)) }

func dotQ8AVX2(y *[8]float32, w q8Group, x actRow) {
	var acc archsimd.Float32x8
	for b := range len(x.scale) / lanes {
		weights, acts := (*[q8Block]int8)(w.q[b*q8Block:]), (*[actWords]uint32)(x.q[b*actWords:])
		var s, t archsimd.Int32x8
		for j := 0; j < blockSize/2; j += 2 {
			q, a := (*[4 * lanes]int8)(weights[j*2*lanes:]), (*[2 * lanes]uint32)(acts[j*lanes:])
			s = s.Add(archsimd.LoadInt8x16((*[16]int8)(q[0:])).ExtendToInt16().DotProductPairs(pairs(a[0:])))
			t = t.Add(archsimd.LoadInt8x16((*[16]int8)(q[16:])).ExtendToInt16().DotProductPairs(pairs(a[8:])))
		}
		acc = acc.Add(s.Add(t).ConvertToFloat32().Mul(floats(w.scale[b*lanes:]).Mul(floats(x.scale[b*lanes:]))))
	}
	acc.Store(y)
	archsimd.ClearAVXUpperBits()
}

func dotAVX2(a, b []float32) float32 {
	var acc archsimd.Float32x8
	for i := 0; i+8 <= len(a); i += 8 {
		acc = acc.Add(floats(a[i:]).Mul(floats(b[i:])))
	}
	var t [8]float32
	acc.Store(&t)
	archsimd.ClearAVXUpperBits()
	return sum8(&t)
}

func axpyAVX2(y []float32, s float32, x []float32) {
	sv := archsimd.BroadcastFloat32x8(s)
	for i := 0; i+8 <= len(y); i += 8 {
		p := (*[8]float32)(y[i:])
		floats(p[:]).Add(floats(x[i:]).Mul(sv)).Store(p)
	}
	archsimd.ClearAVXUpperBits()
}
