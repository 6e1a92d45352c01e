// From the PVH entry (32-bit protected mode, no paging, start information in ebx) to `guest_main` in long mode, and the
// start of further vCPUs. AT&T syntax.

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
    movl $boot_stack_top, %esp
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

    movl $0x620, %eax                       // PAE, SSE
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
3:  call load_segments
    call guest_main
4:  hlt
    jmp 4b

load_segments:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %ebp, %ebp
    ret

// A further vCPU, in long mode with the tables above, its stack, and its number in rdi.
    .globl further_start
further_start:
    lgdt gdt_pointer
    leaq 1f(%rip), %rax
    pushq $8
    pushq %rax
    lretq
1:  call load_segments
    call further_main
2:  hlt
    jmp 2b

    .section .rodata.gdt, "a"
    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .short 23
    .quad gdt

    .section .bss.entry, "aw", @nobits
    .balign 4096
    .globl tables_pml4
tables_pml4:    .skip 4096
tables_pdpt:    .skip 4096
tables_pd:      .skip 4 * 4096
    .globl entry_tsc
entry_tsc:      .skip 8
