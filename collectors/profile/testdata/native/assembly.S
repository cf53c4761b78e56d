/* Functions as people write them by hand: with a size, without, and marks that are no functions. */
    .text
    .globl sized
    .type sized, @function
sized:
    lea 1(%rdi), %eax
    nop
    ret
    .size sized, .-sized

    .zero 64, 0xcc

    .globl sizeless
    .type sizeless, @function
sizeless:
    lea 2(%rdi), %eax
mark_within:
    nop
    nop
    ret

    .globl untyped
untyped:
    nop
    nop
    ret

    .section .text.behind, "ax", @progbits
    .zero 32, 0xcc

    .section .note.GNU-stack, "", @progbits
