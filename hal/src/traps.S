// Entry code of all 256 vectors. Each stub leaves on the stack: an error code (0 where the processor pushes none), the
// vector, and all general registers, in the order of traps::Frame.

    .section .text.traps, "ax"
    .balign 16
    .globl trap_stubs
    .type trap_stubs, @function
trap_stubs:
    vector = 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    .byte 0x6a, 0                           // push 0
    .endif
    .byte 0x68                              // push imm32
    .long vector
    jmp trap_common
    vector = vector + 1
    .endr

    .balign 16
    .type trap_common, @function
trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    // The processor aligned the stack to 16 before it pushed 5 words; 17 more make 22 words: still aligned.
    call trap_entry
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq
