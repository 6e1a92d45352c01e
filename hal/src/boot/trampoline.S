// Where the other CPUs start: real mode, at a page below 1 MiB that this code was copied to. It goes straight to long
// mode with the page tables of the start, which map low memory one to one, and on to high addresses.
// Everything is addressed relative to the copy: DS holds the page's segment, and three words are filled in on copying.

    .section .rodata.trampoline, "a"
    .balign 16
    .globl trampoline_start
trampoline_start:
    .code16
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - trampoline_start
    movl $0xa0, %eax                        // PAE, PGE
    movl %eax, %cr4
    movl trampoline_cr3 - trampoline_start, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx                  // EFER
    rdmsr
    orl trampoline_efer - trampoline_start, %eax
    wrmsr
    movl $0x80010031, %eax                  // PG, WP, NE, ET, PE; caches on
    movl %eax, %cr0
    ljmpl *(trampoline_far - trampoline_start)

    .code64
trampoline_long:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movabsq $ap_start64, %rax
    jmpq *%rax

    .balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00af9b000000ffff                // 0x08: 64-bit code
    .quad 0x00cf93000000ffff                // 0x10: data
    .globl trampoline_gdt_pointer
trampoline_gdt_pointer:
    .short 23
    .long trampoline_gdt - trampoline_start // the page's address is added on copying
    .short 0
    .globl trampoline_far
trampoline_far:
    .long trampoline_long - trampoline_start // likewise
    .short 0x08
    .short 0
    .globl trampoline_cr3
trampoline_cr3:
    .long 0
    .globl trampoline_efer
trampoline_efer:
    .long 0
    .globl trampoline_end
trampoline_end:

    .section .text.ap_start, "ax"
    .type ap_start64, @function
ap_start64:
    movq AP_CR3(%rip), %rax                 // from here on nothing is mapped low
    movq %rax, %cr3
    movq AP_STACK(%rip), %rsp
    xorl %ebp, %ebp
    pushq $0
    pushq $0
    call ap_entry
1:  cli
    hlt
    jmp 1b
