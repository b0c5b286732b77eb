//! What must not compile does not, and the first line of the compiler says why.

#[test]
fn a_step_that_contradicts_its_declaration_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/compile_fail/sound.rs");
    cases.compile_fail("tests/compile_fail/forgotten_compensation.rs");
    cases.compile_fail("tests/compile_fail/forgotten_external_compensation.rs");
    cases.compile_fail("tests/compile_fail/wrong_registration.rs");
    cases.compile_fail("tests/compile_fail/trigger_that_is_no_event.rs");
    cases.compile_fail("tests/compile_fail/another_event.rs");
}
