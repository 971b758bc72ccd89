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

// func fetchServers(conns *conn.Conn, ids []conn.ID, lanes []lane)
// Asks for the lanes of the connections' real servers, and then for the counters
// that these point at.
TEXT ·fetchServers(SB), NOSPLIT, $0-56
	MOVQ conns+0(FP), R8
	MOVQ ids_base+8(FP), SI
	MOVQ ids_len+16(FP), CX
	MOVQ lanes_base+32(FP), DI
	MOVQ lanes_len+40(FP), DX
	TESTQ CX, CX
	JZ   end
	MOVQ SI, R10
	MOVQ CX, R11

lane:
	MOVL (R10), AX
	SHLQ $6, AX
	MOVL 44(R8)(AX*1), AX // Conn.Real
	SHLQ $6, AX
	PREFETCHT0 (DI)(AX*1)
	ADDQ $4, R10
	DECQ R11
	JNZ  lane

row:
	MOVL (SI), AX
	SHLQ $6, AX
	MOVL 44(R8)(AX*1), AX
	CMPQ AX, DX
	JCC  skip // lb.NoReal
	SHLQ $6, AX
	MOVQ lane_row(DI)(AX*1), R9
	PREFETCHT0 (R9)
	MOVQ lane_svc(DI)(AX*1), R9
	PREFETCHT0 (R9)

skip:
	ADDQ $4, SI
	DECQ CX
	JNZ  row

end:
	RET
