#include "go_asm.h"
#include "textflag.h"

// func fetch(pkts []Packet)
// Asks for the first cache line of each packet's frame.
TEXT ·fetch(SB), NOSPLIT, $0-24
	MOVQ pkts_base+0(FP), SI
	MOVQ pkts_len+8(FP), CX
	TESTQ CX, CX
	JZ   done

next:
	MOVQ (SI), DI
	MOVL 24(SI), AX
	PREFETCHT0 (DI)(AX*1)
	ADDQ $Packet__size, SI
	DECQ CX
	JNZ  next

done:
	RET
