"""The built binary against real servers: the short forms of what `make soak` and `make campaign` do at length."""

import campaign
import clock
import damage
import earlier
import hanging
import hostile
import naming
import real_input
import running
import scale
import shortage
import trouble


def test_slots_are_those_of_the_documented_hash(folder):
    running.slots_from_outside(folder)


def test_what_an_operator_does_with_a_run(folder):
    running.run(folder)


def test_expected_slots_are_stored_and_in_the_servers_logs(folder):
    real_input.run(folder, seconds=60, count=1000)


def test_no_kill_and_no_trouble_loses_or_doubles_anything():
    campaign.apart(kills=20)


def test_a_locked_store_makes_no_check_late_and_loses_nothing(folder):
    trouble.locked(folder)


def test_a_limit_of_the_size_of_files_makes_no_check_late_and_loses_nothing(folder):
    trouble.limited(folder)


def test_a_store_that_is_locked_at_the_start_is_waited_for(folder):
    trouble.locked_at_the_start(folder)


def test_a_store_that_is_locked_at_the_end_is_waited_for_as_long_as_the_grace(folder):
    trouble.locked_at_the_end(folder)


def test_a_damaged_store_is_told_and_never_a_panic(folder):
    damage.damaged(folder)


def test_a_store_that_is_not_ours_is_left_as_it_is(folder):
    damage.not_ours(folder)


def test_a_read_only_folder_is_read():
    damage.read_only()


def test_a_full_disk_makes_no_check_late_and_loses_nothing():
    trouble.full()


def test_a_clock_that_is_set_brings_no_slot_twice_and_loses_none_that_came(folder):
    clock.run(folder)


def test_few_descriptors_never_make_a_site_down(folder):
    shortage.few_files(folder)


def test_no_ipv6_never_makes_a_site_down():
    shortage.without_ipv6()


def test_names_are_kept_as_long_as_they_may_be(folder):
    naming.kept(folder)


def test_a_c_library_that_hangs_delays_no_others():
    naming.library_that_hangs()


def test_sites_that_hang_delay_no_others(folder):
    hanging.run(folder)


def test_hostile_sites_cost_bounded_memory(folder):
    hostile.memory(folder)


def test_hostile_sites_of_all_kinds_disturb_no_others(folder):
    hostile.neighbours(folder)


def test_a_hundred_thousand_sites_load_and_a_reload_disturbs_none(folder):
    scale.run(folder)


def test_files_of_the_earlier_systems_run_as_they_are(folder):
    earlier.run(folder)
