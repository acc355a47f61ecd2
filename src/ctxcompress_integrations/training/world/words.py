"""The words of the small world, each one token in MiniLM's vocabulary: names, and values that a fact may have.

No word of a name is a value, so that a name says nothing about an answer.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    """
    Golden Northern Southern Eastern Western Hidden Silent Ancient Bright Broken Bitter Blessed Bold Brave Broad
    Burning Calm Careful Clever Cold Common Cosmic Crystal Curious Dark Deep Delta Dry Dusty Eager Easy Elder
    Electric Empty Endless Eternal Fair Faithful Famous Fancy Fast Fierce Final Flat Floating Flying Foreign
    Forgotten Free Fresh Frozen Gentle Giant Glad Global Grand Grave Great Happy Hard Heavy Hollow Holy Honest
    Humble Hungry Icy Inner Jolly Junior Keen Kind Lazy Living Lonely Loose Lost Loud Lucky Lunar Magic Major Mighty
    Misty Modern Mortal Narrow Native Neat Noble Open Outer Pale Perfect Polar Polite Proud Pure Quick Quiet Rapid
    Rare Raw Ready Regal Rich Rising Rough Round Royal Rural Sacred Safe Sandy Secret Senior Sharp Shiny Sleepy Slow
    Smooth Soft Solar Solid Special Steady Steep Still Stormy Strange Strong Sunny Super Sweet Swift Tender Thick
    Thin Tiny Tough True Twin United Upper Urban Vast Vivid Warm Wet Wild
    """
)
SECOND = _words(
    """
    Anchor Angel Arch Arrow Badge Bank Bay Beacon Beam Bell Bench Bird Blade Bloom Board Bow Branch Bridge Brook
    Brush Candle Canyon Castle Cave Chest Cliff Clock Cloud Coast Comet Coral Corner Cottage Cove Crane Creek Crest
    Cross Crown Dawn Desert Diamond Dome Dove Dragon Dream Drum Dune Echo Edge Falcon Feather Fern Field Flame Fleet
    Flower Forest Forge Fountain Gate Glacier Grove Hall Hammer Harbor Hawk Hedge Hill Horizon House Island Jewel
    Junction Key Knight Lake Lane Lantern Leaf Ledge Lotus Manor Maple Marsh Meadow Mill Mirror Moon Moss Mountain
    Oasis Ocean Orchard Palace Palm Path Peak Pearl Phoenix Pier Pillar Plain Pond Port Prairie Quarry Raven Reef
    Ridge Ring River Road Rock Sail Saddle Shadow Shell Shield Shore Sky Spark Spear Spirit Spruce Star Storm Stream
    Summit Sun Sword Temple Thorn Thunder Tide Torch Trail Tree Valley Vault Village Vine Wave Well
    """
)
PERSON = _words(
    """
    Anna Peter Maria Paul Laura Simon Helen Oscar Clara Felix Alice Bruno Diana Edgar Emma Frank Grace Henry Irene
    Jacob Julia Karl Lucas Marta Nina Otto Pablo Quinn Rosa Samuel Sofia Thomas Ursula Victor Wanda Xavier Agnes
    Boris Carmen Daniel Elena George Hannah Isaac Janet Kevin Linda Martin Nora Oliver Patrick Rachel Stefan Teresa
    Vera Walter Edith Hugo Ivan Jonas
    """
)
CITY = _words(
    """
    Paris London Berlin Madrid Rome Vienna Prague Warsaw Dublin Athens Lisbon Oslo Stockholm Helsinki Moscow Kiev
    Munich Hamburg Milan Venice Naples Florence Geneva Zurich Brussels Antwerp Amsterdam Rotterdam Copenhagen
    Budapest Belgrade Istanbul Cairo Tunis Beirut Damascus Baghdad Delhi Mumbai Tokyo Kyoto Osaka Seoul Shanghai
    Manila Jakarta Sydney Melbourne Toronto Montreal Boston Chicago Denver Seattle Houston Lima Bogota Santiago
    Havana
    """
)
COUNTRY = _words(
    """
    France Spain Italy Germany Poland Sweden Norway Finland Denmark Ireland Scotland Wales Portugal Greece Turkey
    Russia Ukraine Romania Hungary Austria Switzerland Belgium Iceland Egypt Morocco Kenya Ghana Nigeria India China
    Japan Korea Thailand Vietnam Indonesia Australia Canada Mexico Brazil Argentina Chile Peru Cuba
    """
)
COLOUR = _words(
    """
    red blue green yellow black white brown orange purple pink gray scarlet crimson violet indigo turquoise ivory
    beige bronze silver gold cream emerald ruby olive navy amber copper rose lavender
    """
)
MATERIAL = _words(
    """
    oak steel copper glass marble leather paper wool cotton silk clay stone brass iron tin plastic rubber aluminium
    bamboo velvet linen granite ceramic concrete wax cork straw bronze silver pine
    """
)
ANIMAL = _words(
    """
    dog cat horse cow pig sheep goat rabbit fox wolf bear lion tiger eagle owl swan duck goose crow parrot turtle
    snake frog salmon shark whale dolphin elephant monkey camel deer mouse rat spider butterfly bee ant crab lizard
    kangaroo
    """
)
GOODS = _words(
    """
    apples sugar salt tea coffee rice wheat corn butter cheese wine beer honey milk bread beans potatoes bananas
    grapes flour fish meat eggs chocolate oil tobacco timber coal cement soap candles shoes hats books toys bells
    clocks lamps boats carpets guns tools paint ropes cloth furniture bicycles pianos knives mirrors tires
    """
)
JOB = _words(
    """
    baker teacher doctor lawyer farmer painter carpenter tailor nurse pilot driver sailor soldier singer dancer
    writer poet actor butcher gardener librarian journalist engineer chemist dentist judge banker merchant barber
    hunter fisherman mechanic surgeon architect photographer musician priest clerk guard
    """
)
INSTRUMENT = _words(
    """
    piano violin guitar flute trumpet drums harp organ cello banjo saxophone clarinet mandolin accordion trombone
    bass horn fiddle bells keyboard viola oboe tuba
    """
)
ROOM = _words(
    """
    kitchen cellar attic garage library bedroom bathroom hallway office laboratory workshop basement balcony garden
    roof lobby elevator canteen chapel gymnasium archive corridor warehouse courtyard stable tunnel tower pantry
    terrace nursery
    """
)
CAUSE = _words(
    """
    lightning smoke water ice dust rust mice wind snow sand heat fire mud oil fog frost rain birds insects noise ash
    steam grease salt leaves
    """
)
TOOL = _words(
    """
    pump valve motor cable battery fuse filter switch lamp lock spring wheel belt chain screw engine fan sensor pipe
    antenna bolt brake clutch piston printer camera monitor keyboard door window ladder hose rope
    """
)
SPORT = _words(
    """
    football tennis golf hockey cricket rugby boxing wrestling swimming sailing skiing cycling chess baseball
    basketball volleyball archery fencing rowing running diving skating surfing climbing fishing hunting dancing
    singing painting reading
    """
)
YEAR = tuple(str(year) for year in range(1950, 2020))
NUMBER = tuple(str(number) for number in range(11, 100))
