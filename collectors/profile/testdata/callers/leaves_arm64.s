#include "textflag.h"

TEXT ·frameless(SB), NOSPLIT|NOFRAME, $0-16
	MOVD n+0(FP), R1
	MOVD $0, R0
again:
	ADD R1, R0
	SUBS $1, R1
	BNE again
	MOVD R0, ret+8(FP)
	RET

TEXT ·pushes(SB), NOSPLIT, $32-16
	MOVD n+0(FP), R1
	MOVD $0, R0
again:
	MOVD R1, 8(RSP)
	ADD R1, R0
	MOVD 8(RSP), R1
	SUBS $1, R1
	BNE again
	MOVD R0, ret+8(FP)
	RET

TEXT ·trashes(SB), NOSPLIT, $64-16
	MOVD n+0(FP), R1
	MOVD R29, 56(RSP)
	MOVD $0, R29
again:
	ADD R1, R29
	SUBS $1, R1
	BNE again
	MOVD R29, R0
	MOVD 56(RSP), R29
	MOVD R0, ret+8(FP)
	RET
