"""What every store owes the broker, whatever it is made of.

A subclass gives the fixture `shelf`: where the data lies, and how to put a store on it. The parts
are one module each; a store is held to all of them.
"""

from tests.contract.store_list import ListContract
from tests.contract.store_log import LogContract
from tests.contract.store_people import PeopleContract
from tests.contract.store_timelines import TimelinesContract
from tests.contract.store_turns import TurnsContract
from tests.contract.store_writing import WritingContract


class StoreContract(
    WritingContract, TurnsContract, LogContract, ListContract, TimelinesContract, PeopleContract
):
    """Subclass it and give the fixture `shelf`."""
