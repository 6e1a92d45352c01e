// From the PVH entry (32-bit protected mode, no paging, start information in ebx) to Rust in long mode, and the entries
// of interrupts. AT&T syntax.

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18                          // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long guest_start

    .section .text.start, "ax"
    .code32
    .globl guest_start
guest_start:
    rdtsc                                   // nothing comes before the figure that ends the hypervisor's start
    movl %eax, entry_tsc
    movl %edx, entry_tsc + 4
    cld
    movl $stack_top, %esp
    movl %ebx, %edi

    movl $tables_pd, %ebp                   // the first 4 GiB one to one, in 2 MiB pages
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%ebp)
    addl $8, %ebp
    addl $0x200000, %eax
    loop 1b
    movl $tables_pd + 3, %eax
    movl $tables_pdpt, %ebp
    movl $4, %ecx
2:  movl %eax, (%ebp)
    addl $8, %ebp
    addl $0x1000, %eax
    loop 2b
    movl $tables_pdpt + 3, tables_pml4

    movl %cr4, %eax
    orl $0x620, %eax                        // PAE, SSE
    movl %eax, %cr4
    movl $tables_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx                  // EFER: LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80010033, %eax                  // PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $3f
    .code64
3:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %ebp, %ebp
    call guest_main
4:  hlt
    jmp 4b

// Where the second CPU starts, in 64-bit mode with segments that no table describes yet.
    .globl second_start
second_start:
    lgdt gdt_pointer
    pushq $8
    pushq $5f
    lretq
5:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %ebp, %ebp
    call second_main

// Each leaves the counter in LAST_INTERRUPT and says so in INTERRUPTS; those of the second CPU only say so in
// SECOND_INTERRUPTS.
    .macro interrupt name, upcall, second=0
    .globl \name
\name:
    pushq %rax
    pushq %rcx
    pushq %rdx
    .if !\second
    rdtsc
    movl %eax, LAST_INTERRUPT
    movl %edx, LAST_INTERRUPT + 4
    .endif
    .if \upcall
    movb $0, SHARED_INFO + 64 * \second
    .else
    movl $0x80b, %ecx                       // x2APIC: end of interrupt
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
    .endif
    .if \second
    incq SECOND_INTERRUPTS
    .else
    incq INTERRUPTS
    .endif
    popq %rdx
    popq %rcx
    popq %rax
    iretq
    .endm
    interrupt upcall_entry, 1
    interrupt apic_entry, 0
    interrupt second_upcall_entry, 1, 1
    interrupt second_apic_entry, 0, 1

// An exception: its number is not known, the stack says the rest.
    .globl exception_entry
exception_entry:
    movq %rsp, %rdi
    call guest_exception

    .section .rodata.gdt, "a"
    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .short 23
    .quad gdt

    .section .bss.entry, "aw", @nobits
    .balign 4096
tables_pml4:    .skip 4096
tables_pdpt:    .skip 4096
tables_pd:      .skip 4 * 4096
stack_bottom:   .skip 32768
stack_top:
second_bottom:  .skip 16384
    .globl second_stack
second_stack:
    .globl entry_tsc
entry_tsc:      .skip 8
