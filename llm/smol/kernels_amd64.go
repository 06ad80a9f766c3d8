//go:build goexperiment.simd

package smol

import "simd/archsimd"

// fastest returns the kernels for this processor.
func fastest() kernels {
	if archsimd.X86.AVX2() {
		return kernels{name: "avx2", dotQ4: dotQ4AVX2, dotQ8: dotQ8AVX2, dot: dotAVX2, axpy: axpyAVX2}
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
		words := (*[q4Words]uint32)(w.q[b*q4Words:])
		acts := (*[actBlock]int16)(x.q[b*actBlock:])
		var s, t archsimd.Int32x8
		for j := range 4 {
			v := archsimd.LoadUint32x8((*[8]uint32)(words[j*8:]))
			a := (*[4 * pairLanes]int16)(acts[j*4*pairLanes:])
			s = s.Add(v.And(mask).AsInt16x16().DotProductPairs(archsimd.LoadInt16x16((*[16]int16)(a[0:]))))
			v = v.ShiftRight(four)
			t = t.Add(v.And(mask).AsInt16x16().DotProductPairs(archsimd.LoadInt16x16((*[16]int16)(a[16:]))))
			v = v.ShiftRight(four)
			s = s.Add(v.And(mask).AsInt16x16().DotProductPairs(archsimd.LoadInt16x16((*[16]int16)(a[32:]))))
			v = v.ShiftRight(four)
			t = t.Add(v.And(mask).AsInt16x16().DotProductPairs(archsimd.LoadInt16x16((*[16]int16)(a[48:]))))
		}
		scale := archsimd.LoadFloat32x8((*[8]float32)(w.scale[b*lanes:])).Mul(archsimd.LoadFloat32x8((*[8]float32)(x.scale[b*lanes:])))
		low := archsimd.LoadFloat32x8((*[8]float32)(w.low[b*lanes:])).Mul(archsimd.LoadFloat32x8((*[8]float32)(x.sum[b*lanes:])))
		acc = acc.Add(s.Add(t).ConvertToFloat32().Mul(scale))
		offset = offset.Add(low)
	}
	acc.Add(offset).Store(y)
	archsimd.ClearAVXUpperBits()
}

func dotQ8AVX2(y *[8]float32, w q8Group, x actRow) {
	var acc archsimd.Float32x8
	for b := range len(x.scale) / lanes {
		weights := (*[q8Block]int8)(w.q[b*q8Block:])
		acts := (*[actBlock]int16)(x.q[b*actBlock:])
		var s, t archsimd.Int32x8
		for j := 0; j < actBlock; j += 2 * pairLanes {
			p, a := (*[2 * pairLanes]int8)(weights[j:]), (*[2 * pairLanes]int16)(acts[j:])
			s = s.Add(archsimd.LoadInt8x16((*[16]int8)(p[0:])).ExtendToInt16().DotProductPairs(archsimd.LoadInt16x16((*[16]int16)(a[0:]))))
			t = t.Add(archsimd.LoadInt8x16((*[16]int8)(p[16:])).ExtendToInt16().DotProductPairs(archsimd.LoadInt16x16((*[16]int16)(a[16:]))))
		}
		scale := archsimd.LoadFloat32x8((*[8]float32)(w.scale[b*lanes:])).Mul(archsimd.LoadFloat32x8((*[8]float32)(x.scale[b*lanes:])))
		acc = acc.Add(s.Add(t).ConvertToFloat32().Mul(scale))
	}
	acc.Store(y)
	archsimd.ClearAVXUpperBits()
}

func dotAVX2(a, b []float32) float32 {
	var acc archsimd.Float32x8
	for i := 0; i+8 <= len(a); i += 8 {
		acc = acc.Add(archsimd.LoadFloat32x8((*[8]float32)(a[i:])).Mul(archsimd.LoadFloat32x8((*[8]float32)(b[i:]))))
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
		archsimd.LoadFloat32x8(p).Add(archsimd.LoadFloat32x8((*[8]float32)(x[i:])).Mul(sv)).Store(p)
	}
	archsimd.ClearAVXUpperBits()
}
