// The way into a guest and back: svm_enter(regs: rdi, guest_vmcb: rsi, host_vmcb: rdx).
//
// Runs the guest once. GIF is clear from before the guest's state is loaded until the host's is back, so that no
// interrupt or NMI meets the guest's FS, GS or TR. RFLAGS.IF is set at VMRUN: with virtual interrupt masking it is what
// lets physical interrupts end guest mode. Offsets are those of `radon_x86::virt::Regs`.
    .pushsection .text.svm_enter, "ax"
    .global svm_enter
svm_enter:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    push rdx
    push rdi
    mov rax, rsi
    mov rcx, [rdi + 8 * 1]
    mov rdx, [rdi + 8 * 2]
    mov rbx, [rdi + 8 * 3]
    mov rbp, [rdi + 8 * 5]
    mov rsi, [rdi + 8 * 6]
    mov r8,  [rdi + 8 * 8]
    mov r9,  [rdi + 8 * 9]
    mov r10, [rdi + 8 * 10]
    mov r11, [rdi + 8 * 11]
    mov r12, [rdi + 8 * 12]
    mov r13, [rdi + 8 * 13]
    mov r14, [rdi + 8 * 14]
    mov r15, [rdi + 8 * 15]
    mov rdi, [rdi + 8 * 7]
    clgi
    sti
    vmload rax
    vmrun rax
    vmsave rax
    cli
    push rdi
    mov rdi, [rsp + 8]
    mov [rdi + 8 * 1], rcx
    mov [rdi + 8 * 2], rdx
    mov [rdi + 8 * 3], rbx
    mov [rdi + 8 * 5], rbp
    mov [rdi + 8 * 6], rsi
    mov [rdi + 8 * 8], r8
    mov [rdi + 8 * 9], r9
    mov [rdi + 8 * 10], r10
    mov [rdi + 8 * 11], r11
    mov [rdi + 8 * 12], r12
    mov [rdi + 8 * 13], r13
    mov [rdi + 8 * 14], r14
    mov [rdi + 8 * 15], r15
    pop rcx
    mov [rdi + 8 * 7], rcx
    pop rdi
    pop rax
    vmload rax
    stgi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
    .popsection
