#include "textflag.h"

// func seek(index unsafe.Pointer, buckets int, hashes []uint64, out []ID)
// out[i] = hashes[i]>>32 * buckets >> 32, as index.first; asks for that cache
// line of the index. A line that is not mapped is no fault.
TEXT ·seek(SB), NOSPLIT, $0-64
	MOVQ index+0(FP), DI
	MOVQ buckets+8(FP), R8
	MOVQ hashes_base+16(FP), SI
	MOVQ hashes_len+24(FP), CX
	MOVQ out_base+40(FP), DX
	TESTQ CX, CX
	JZ   done

next:
	MOVQ  (SI), AX
	SHRQ  $32, AX
	IMULQ R8, AX
	SHRQ  $32, AX
	MOVL  AX, (DX)
	SHLQ  $6, AX
	PREFETCHT0 (DI)(AX*1)
	ADDQ  $8, SI
	ADDQ  $4, DX
	DECQ  CX
	JNZ   next

done:
	RET

// func candidates(index, conns unsafe.Pointer, hashes []uint64, out []ID)
// out[i], a bucket's number, becomes the ID in the first slot with the tag of
// hashes[i], or 0; asks for the entry of that ID.
TEXT ·candidates(SB), NOSPLIT, $0-64
	MOVQ index+0(FP), DI
	MOVQ conns+8(FP), R8
	MOVQ hashes_base+16(FP), SI
	MOVQ hashes_len+24(FP), CX
	MOVQ out_base+40(FP), DX
	TESTQ CX, CX
	JZ   done
	MOVL $2, R11

next:
	MOVL  (DX), BX
	SHLQ  $6, BX
	ADDQ  DI, BX
	MOVL  4(SI), AX           // the tag: the lowest 7 bits of the upper half,
	MOVL  (SI), R9
	ADDL  AX, AX
	ANDL  $1, R9              // the side below them,
	ORL   R9, AX
	MOVBLZX AX, AX
	LEAL  2(AX), R9
	CMPL  AX, R11
	CMOVLCS R9, AX            // and never 0 or 1
	MOVD  AX, X0
	PUNPCKLBW X0, X0
	PSHUFLW $0, X0, X0
	PUNPCKLQDQ X0, X0
	MOVOU (BX), X1
	PCMPEQB X1, X0            // the sixteenth byte is 0, and no tag is
	PMOVMSKB X0, AX
	XORL  R10, R10
	BSFL  AX, AX
	JZ    none
	MOVBLZX 16(BX)(AX*1), R10
	MOVWLZX 32(BX)(AX*2), R9
	SHLL  $16, R10
	ORL   R9, R10

none:
	MOVL  R10, (DX)
	SHLQ  $6, R10
	PREFETCHT0 (R8)(R10*1)
	ADDQ  $8, SI
	ADDQ  $4, DX
	DECQ  CX
	JNZ   next

done:
	RET

// func fetchEntry(conns, reals, timers, older unsafe.Pointer, id ID)
// Asks for all that there is of an entry.
TEXT ·fetchEntry(SB), NOSPLIT, $0-36
	MOVQ conns+0(FP), DI
	MOVQ reals+8(FP), SI
	MOVQ timers+16(FP), DX
	MOVQ older+24(FP), R8
	MOVL id+32(FP), AX
	MOVQ AX, BX
	SHLQ $3, AX
	PREFETCHT0 (R8)(AX*1)
	SHLQ $1, AX
	PREFETCHT0 (SI)(AX*1)
	PREFETCHT0 (DX)(AX*1)
	SHLQ $2, AX
	PREFETCHT0 (DI)(AX*1)
	RET
