#include "textflag.h"

// func prefetch(base unsafe.Pointer, at []ID)
// Asks for the cache line base+64*at[i] for each i; a line that is not mapped
// is no fault.
TEXT ·prefetch(SB), NOSPLIT, $0-32
	MOVQ base+0(FP), DI
	MOVQ at_base+8(FP), SI
	MOVQ at_len+16(FP), CX
	TESTQ CX, CX
	JZ   done

next:
	MOVL (SI), AX
	SHLQ $6, AX
	PREFETCHT0 (DI)(AX*1)
	ADDQ $4, SI
	DECQ CX
	JNZ  next

done:
	RET
