// Exceptions, and the way into code that may not come back. AT&T syntax.
//
// Each vCPU has an area of AREA bytes, aligned to its size: what `cpu.rs` keeps at the bottom, then the stack for
// exceptions (its top is EXCEPTION_TOP), and the ordinary stack at the top. So either stack pointer leads to the area.

    .set AREA, 0x8000
    .set RESUME, 0                          // stack pointer to go on with after an exception; 0: none expected
    .set VECTOR, 8                          // the exception that ended the code
    .set TABLE_CR4, 0x620                   // as start.S has them: PAE, SSE
    .set TABLE_CR0, 0x80010033              // PG, WP, NE, ET, MP, PE

    .section .text.run, "ax"
// u64 run_code(code, registers): jumps to the code with rax, rcx, rdx, rbx, rbp, rsi, rdi and r8 to r15 from the array;
// returns the vector of the exception, or the NMI, that ended it.
    .globl run_code
run_code:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rax
    andq $-AREA, %rax
    movq %rsp, RESUME(%rax)
    pushq %rdi
    movq 0(%rsi), %rax
    movq 8(%rsi), %rcx
    movq 16(%rsi), %rdx
    movq 24(%rsi), %rbx
    movq 32(%rsi), %rbp
    movq 48(%rsi), %rdi
    movq 56(%rsi), %r8
    movq 64(%rsi), %r9
    movq 72(%rsi), %r10
    movq 80(%rsi), %r11
    movq 88(%rsi), %r12
    movq 96(%rsi), %r13
    movq 104(%rsi), %r14
    movq 112(%rsi), %r15
    movq 40(%rsi), %rsi
    ret
code_ended:
    movq %rsp, %rax
    andq $-AREA, %rax
    movq VECTOR(%rax), %rax
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

// One entry for each vector, 16 bytes apart. They run on the stack for exceptions, wherever the code left rsp.
    .balign 16
    .globl vector_entries
vector_entries:
    .set vector, 0
    .rept 256
    .balign 16
    pushq $vector
    jmp vector_common
    .set vector, vector + 1
    .endr

vector_common:
    pushq %rax
    pushq %rdx
    movq %rsp, %rdx
    andq $-AREA, %rdx
    cmpq $0, RESUME(%rdx)
    je 1f
    movq 16(%rsp), %rax
    movq %rax, VECTOR(%rdx)
    movq RESUME(%rdx), %rcx
    movq $0, RESUME(%rdx)
    cld                                     // whatever the code changed that the next lines of Rust depend on
    movl $tables_pml4, %eax
    movq %rax, %cr3
    movl $TABLE_CR4, %eax
    movq %rax, %cr4
    movl $TABLE_CR0, %eax
    movq %rax, %cr0
    xorl %eax, %eax
    movq %rax, %dr7
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    pushq %rax                              // IRET also lets the next NMI come
    pushq %rcx
    pushq $2
    pushq $8
    leaq code_ended(%rip), %rax
    pushq %rax
    iretq
1:  movq 16(%rsp), %rax                     // not expected: an interrupt, NMI or trap is over, a fault is the end
    cmpq $32, %rax
    jae 2f
    cmpq $1, %rax
    je 2f
    cmpq $2, %rax
    je 2f
    leaq 16(%rsp), %rdi
    call unexpected_exception
2:  popq %rdx
    popq %rax
    addq $8, %rsp
    iretq

    .section .bss.entry, "aw", @nobits
    .balign AREA
    .globl areas
areas:          .skip 128 * AREA
    .globl boot_stack_top
    .set boot_stack_top, areas + AREA
