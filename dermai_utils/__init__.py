"""DermAI-ISIC2018: the ISIC 2018 Task 3 data -> an honestly evaluated 7-class classifier.

Research and education only: never a medical device.
"""

__version__ = "0.3.0"
